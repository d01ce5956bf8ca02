"""SavedModels, run by TensorFlow, without Keras."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hvdkit.errors import ExportError, InstallationError
from hvdkit.export.runtimes.base import (
    TEXT,
    TensorSpec,
    as_bytes,
    as_text,
    checked,
    first_lines,
    unreadable,
)

SIGNATURE = "serving_default"


class SavedModelRuntime:
    """The signature "serving_default" of a SavedModel, which TensorFlow Serving takes, too.

    Args:
        path: its folder.
        threads: see `limit_threads`.

    Raises:
        ExportError: it can't be read, or has no such signature.
        InstallationError: TensorFlow is not installed.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        try:
            import tensorflow as tf
        except ImportError as error:
            raise InstallationError(
                f"{path} needs TensorFlow: {error}. Run\n    pip install 'hvdkit[cpu]'"
            ) from error
        limit_threads(threads)
        try:
            self._loaded = tf.saved_model.load(str(path))  # holds the variables of the signature
        except Exception as error:  # its errors have no class in common
            raise unreadable(path, "a SavedModel", error) from error
        if SIGNATURE not in self._loaded.signatures:
            raise ExportError(f"{path} has no signature {SIGNATURE}, which is what is served.")
        self._function = self._loaded.signatures[SIGNATURE]
        self._path = path
        self.inputs: Sequence[TensorSpec] = specs_of(self._function.structured_input_signature[1])
        self.outputs: Sequence[TensorSpec] = specs_of(self._function.structured_outputs)

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Runtime`."""
        import tensorflow as tf

        given = {
            spec.name: tf.constant(as_bytes(array) if spec.dtype == TEXT else array)
            for spec, array in zip(self.inputs, checked(inputs, self.inputs).values(), strict=True)
        }
        try:
            found = {name: tensor.numpy() for name, tensor in self._function(**given).items()}
        except (tf.errors.OpError, ValueError, TypeError) as error:
            raise ExportError(f"TensorFlow can't run {self._path}: {first_lines(error)}") from error
        return {
            spec.name: as_text(found[spec.name]) if spec.dtype == TEXT else found[spec.name]
            for spec in self.outputs
        }


def limit_threads(threads: int | None) -> None:
    """Let TensorFlow use some threads at most, in the whole process.

    Args:
        threads: how many; None leaves it as it is.

    Raises:
        ExportError: TensorFlow was used before with another number, which can't be changed.
    """
    import tensorflow as tf

    if threads is None or tf.config.threading.get_intra_op_parallelism_threads() == threads:
        return
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    except RuntimeError as error:
        raise ExportError(
            f"TensorFlow can't be limited to {threads} threads: it is in use already. Load this "
            "model before anything else uses TensorFlow."
        ) from error


def specs_of(tensors: Mapping[str, Any]) -> list[TensorSpec]:
    """What TensorFlow's tensors, or specs of them, are; sorted by name, as they keep no order.

    Raises:
        ExportError: one has no fixed number of dimensions.
    """
    for name, tensor in tensors.items():
        if tensor.shape.rank is None:
            raise ExportError(f"{name} has no fixed number of dimensions.")
    return [
        TensorSpec(
            name,
            TEXT if tensor.dtype.name == "string" else tensor.dtype.name,
            tuple(tensor.shape.as_list()),
        )
        for name, tensor in sorted(tensors.items())
    ]
