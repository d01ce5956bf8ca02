"""Models whose weights are 8-bit integers."""

from __future__ import annotations

import tempfile
from pathlib import Path

import keras

from hvdkit.errors import ExportError
from hvdkit.export.keras_files import load_keras_file
from hvdkit.export.runtimes.base import first_lines

MODES = ("int8",)


def quantized(model: keras.Model) -> keras.Model:
    """A copy of a model whose dense, attention and embedding layers have int8 weights.

    Keras quantizes these kinds of layers, and multiplies in integers; all others stay as they are.

    Raises:
        ExportError: the model can't be copied, or has no such layer.
    """
    copy = copied(model)
    try:
        copy.quantize("int8")
    except Exception as error:  # whatever the model's layers raise
        raise ExportError(f"Keras can't quantize {model.name}: {first_lines(error)}") from error
    if not any(getattr(each, "quantization_mode", None) for each in copy._flatten_layers()):
        raise ExportError(
            f"Keras quantizes no layer of {model.name}: of all layers only those of the kinds of "
            "Dense, EinsumDense and Embedding. LiteRT quantizes others, too: export to litert."
        )
    return copy


def copied(model: keras.Model) -> keras.Model:
    """A copy with weights of its own, by way of a .keras file.

    Raises:
        ExportError: it can't be saved, or its classes are not registered with Keras.
    """
    with tempfile.TemporaryDirectory(prefix="hvdkit-export-") as folder:
        path = Path(folder) / "model.keras"
        try:
            keras.saving.save_model(model, path)
        except Exception as error:  # whatever the model's layers raise
            raise ExportError(f"{model.name} can't be copied: {first_lines(error)}") from error
        return load_keras_file(path)
