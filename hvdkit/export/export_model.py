"""`hvd.export_model`: a model in the format of another runtime, from one rank or from many."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from hvdkit.engine import broadcast_object, is_initialized, raise_everywhere, topology
from hvdkit.errors import CollectiveError, ExportError, HvdkitError
from hvdkit.export.exporting import Exported, Wanted, export
from hvdkit.export.formats import format_of
from hvdkit.export.interface import interface_of
from hvdkit.export.keras_files import load_keras_file
from hvdkit.export.quantize import MODES
from hvdkit.mesh.mesh import current_mesh, set_mesh
from hvdkit.watch.activity import pause


def export_model(
    model: keras.Model,
    path: str | os.PathLike[str],
    to: Literal["savedmodel", "onnx", "litert"],
    *,
    quantize: Literal["int8"] | None = None,
    inputs: Any = None,
    examples: Mapping[str, np.ndarray] | None = None,
    batch_size: int | None = None,
    length: int | None = None,
    tolerance: float | None = None,
    overwrite: bool = False,
) -> Exported:
    """Export a model for inference, and see that its own runtime gives what Keras gives.

    What was written is run by TensorFlow, ONNX Runtime or LiteRT on several batches, of two sizes
    and two lengths where those are open, and compared with Keras. Only then it gets its name.

    Every rank calls it; rank 0 writes. A model that is divided over ranks is exported undivided.

    Args:
        model: a built model; it is not changed.
        path: a folder for "savedmodel", else a file that ends in .onnx or .tflite.
        to: the format.
        quantize: "int8" for weights of 8 bits.
        inputs: for a model whose `call` is Python code: what it is called with, as one structure
            of `keras.InputSpec` or of arrays with a batch each.
        examples: a batch of real inputs, by the names that they will have, to be compared besides.
        batch_size: of every call later on, if it is not to stay open.
        length: what all other open sizes are to be, such as that of a sequence.
        tolerance: how far outputs may be from Keras's, as a share of the largest value; by default
            1e-4 in float32, 0.01 in float16, 0.05 in bfloat16, 0.1 where weights are quantized.
        overwrite: replace what is at the path.

    Returns:
        What was written, and how far it was from Keras.

    Raises:
        ExportError: on every rank: the model can't be exported so, gives something else, or the
            path is taken. Nothing is left at the path.
        InstallationError: on every rank: a package is missing; `pip install 'hvdkit[export]'`.

    Example:
        >>> model = keras.Sequential([keras.Input((8,), name="x"), keras.layers.Dense(2)])
        >>> exported = hvd.export_model(model, "model.onnx", to="onnx")
        >>> hvd.export.load("model.onnx")({"x": np.zeros((1, 8), np.float32)})["output_0"].shape
        (1, 2)
    """

    def write(one: keras.Model) -> Exported:
        kind = format_of(to)
        if quantize not in (None, *MODES):
            raise ExportError(f"quantize is {', '.join(MODES)}, not {quantize!r}.")
        wanted = Wanted(kind, quantize is not None, tolerance, examples, overwrite)
        interface = interface_of(one, inputs).with_sizes(batch_size, length)
        return export(interface, Path(path), wanted)

    if not is_initialized() or topology.size() == 1:
        return write(model)
    return _on_rank_0(model, write)


def _on_rank_0(model: keras.Model, write: Callable[[keras.Model], Exported]) -> Exported:
    """Export on rank 0, and tell the others what came of it."""
    problem: str | None = None
    kind: type[Exception] = ExportError
    exported: Exported | None = None
    mesh = current_mesh()
    divided = mesh is not None and (mesh.pipeline, mesh.tensor) != (1, 1)
    with tempfile.TemporaryDirectory(prefix="hvdkit-export-") as folder:
        file = Path(folder) / "undivided.keras"
        try:
            if divided:
                model.save(file)  # by all ranks, each of which has a part of it
            if topology.rank() == 0:
                with pause("exporting the model"):
                    exported = write(_without_mesh(file) if divided else model)
        except CollectiveError:
            raise  # there is nobody to be told
        except HvdkitError as error:
            problem, kind = str(error), type(error)
        except Exception as error:  # the others have to know of any
            problem = f"the model can't be exported: {type(error).__name__}: {error}"
    raise_everywhere(problem, kind)
    result: Exported = broadcast_object(exported, name="hvdkit.export")
    return result


def _without_mesh(path: Path) -> keras.Model:
    """The model of a file, undivided on this rank, although others have parts of one."""
    mesh = current_mesh()
    set_mesh(None)
    try:
        return load_keras_file(path)
    finally:
        set_mesh(mesh)
