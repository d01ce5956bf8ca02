"""Load an exported model with the runtime that it is for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from hvdkit.errors import ExportError
from hvdkit.export.runtimes.base import Runtime


def load(path: str | os.PathLike[str], threads: int | None = None) -> Runtime:
    """Load a model with its own runtime, which is imported now and not before.

    Args:
        path: a SavedModel's folder, or a file that ends in .onnx, .tflite or .keras.
        threads: how many threads may work at one call; None: as many as the runtime finds right.
            TensorFlow has one number for the whole process, set before it is first used.

    Returns:
        The model; call it with arrays by name.

    Raises:
        ExportError: there is nothing, or nothing of this kind, or it is cut off.
        InstallationError: the runtime is not installed.

    Example:
        ```python
        from hvdkit.export.runtimes import load

        model = load("model.onnx", threads=2)
        probabilities = model({"x": np.zeros((1, 64), np.float32)})["output_0"]
        ```
    """
    where = Path(path)
    if not where.exists():
        raise ExportError(f"there is no {where}.")
    return _loader(where)(where, threads)


def _loader(where: Path) -> Callable[[Path, int | None], Runtime]:
    if where.is_dir():
        if not (where / "saved_model.pb").is_file():
            raise ExportError(f"{where} is a folder without saved_model.pb: no SavedModel.")
        from hvdkit.export.runtimes.saved_model import SavedModelRuntime

        return SavedModelRuntime
    if where.suffix == ".onnx":
        from hvdkit.export.runtimes.onnx import OnnxRuntime

        return OnnxRuntime
    if where.suffix == ".tflite":
        from hvdkit.export.runtimes.litert import LiteRTRuntime

        return LiteRTRuntime
    if where.suffix == ".keras":
        from hvdkit.export.runtimes.keras_file import KerasRuntime

        return KerasRuntime
    raise ExportError(
        f"{where} is no model that is known: a SavedModel is a folder, and files end in .onnx, "
        ".tflite or .keras."
    )
