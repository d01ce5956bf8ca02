"""Read a .keras file as a model for inference: nothing in it is ever run as code."""

from __future__ import annotations

import importlib
import zipfile
from pathlib import Path

import keras

from hvdkit.errors import ExportError
from hvdkit.export.runtimes.base import first_lines


def load_keras_file(path: Path) -> keras.Model:
    """Load a model without its optimizer.

    Lambda layers of Python code are refused (Keras's safe mode), and layers that neither Keras
    nor hvdkit has must be registered by the program (`keras.saving.register_keras_serializable`).

    Raises:
        ExportError: it is no .keras file, is cut off, or needs what is not known.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            config = archive.read("config.json")
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ExportError(
            f"{path} is no .keras file, or is cut off: {first_lines(error)}"
        ) from error
    if b'"__lambda__"' in config:
        raise ExportError(
            f"{path} holds Python code (a Lambda layer of a lambda), which is not run: name the "
            "model as MODULE:FUNCTION, with code of your own, or make that layer a class."
        )
    if b'"hvdkit>' in config:
        # Keras finds layers by their names, which it knows when they are loaded.
        importlib.import_module("hvdkit").size  # noqa: B018
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # of any kind, by what is in the file
        raise ExportError(f"{path} can't be loaded: {first_lines(error)}") from error
    if not isinstance(model, keras.Model):
        raise ExportError(f"{path} holds {type(model).__name__}, which is no model.")
    return model
