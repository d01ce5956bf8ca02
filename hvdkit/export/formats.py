"""The formats that models are written in, by what Keras has for each."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np

from hvdkit.errors import ExportError, InstallationError
from hvdkit.export.interface import Interface
from hvdkit.export.named_model import NamedModel
from hvdkit.export.onnx_constants import captured_constants

# Protocol buffers and flat buffers count their bytes with 31 bits.
_MOST_BYTES = 2**31 - 1

_TABLES = ("TextVectorization", "StringLookup", "IntegerLookup", "Hashing", "HashedCrossing")


class Format(Protocol):
    """How a model is written.

    Attributes:
        name: what users call it.
        suffix: what its files end in; "" for a folder.
        quantizes: whether it makes int8 weights by itself, from a float model.
    """

    name: str
    suffix: str
    quantizes: bool

    def write(self, interface: Interface, path: Path, *, quantize: bool) -> None:
        """Write a model.

        Args:
            interface: how the model is called.
            path: the file or folder, which is not there.
            quantize: whether to make int8 weights; only where the format does that.

        Raises:
            Exception: of any kind: the model can't be written so.
        """
        ...

    def hints(self, interface: Interface) -> list[str]:
        """What of a model this format is known not to take, and the way round."""
        ...


class SavedModel:
    """A folder for TensorFlow: the signature `serving_default`."""

    name = "savedmodel"
    suffix = ""
    quantizes = False

    def write(self, interface: Interface, path: Path, *, quantize: bool) -> None:
        """See `Format`."""
        NamedModel(interface).write(str(path), "tf_saved_model")

    def hints(self, interface: Interface) -> list[str]:
        """See `Format`."""
        return []


class Onnx:
    """A file for ONNX Runtime and others."""

    name = "onnx"
    suffix = ".onnx"
    quantizes = False

    def write(self, interface: Interface, path: Path, *, quantize: bool) -> None:
        """See `Format`."""
        _require("tf2onnx", "onnx", "onnxruntime")
        _require_small(interface, "an ONNX file")
        importlib.import_module("hvdkit.export.onnx_operations")
        with warnings.catch_warnings(), captured_constants():
            warnings.filterwarnings("ignore", category=FutureWarning, message=".*np.object.*")
            NamedModel(interface).write(str(path), "onnx")

    def hints(self, interface: Interface) -> list[str]:
        """See `Format`."""
        return _tables(interface) + _computed_in(interface, "bfloat16")


class LiteRT:
    """A .tflite file, with LiteRT's own operations only, which every LiteRT runs."""

    name = "litert"
    suffix = ".tflite"
    quantizes = True

    def write(self, interface: Interface, path: Path, *, quantize: bool) -> None:
        """See `Format`."""
        import tensorflow as tf

        _require("ai_edge_litert")
        _require_small(interface, "a LiteRT file")
        # Keras would allow operations of TensorFlow's, which LiteRT alone does not have.
        options: dict[str, Any] = {
            "target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
        }
        if quantize:
            options["optimizations"] = [tf.lite.Optimize.DEFAULT]
        NamedModel(interface).write(str(path), "litert", **options)
        if quantize:
            _require_integers(path)

    def hints(self, interface: Interface) -> list[str]:
        """See `Format`."""
        found = _tables(interface)
        layers = _layers(interface.model)
        recurrent = [each.name for each in layers if isinstance(each, keras.layers.RNN)]
        if recurrent and interface.inputs[0].shape[0] is None:
            found.append(
                f"recurrent layers ({', '.join(recurrent)}) with a batch of any size: give "
                "--batch-size, and --length if that is any"
            )
        if any(None in spec.shape[1:] for spec in interface.inputs):
            found.append("sizes that are open, in some layers: give --length")
        return found + _computed_in(interface, "float16", "bfloat16", "float64")


FORMATS: Sequence[Format] = (SavedModel(), Onnx(), LiteRT())


def format_of(name: str) -> Format:
    """A format by its name.

    Raises:
        ExportError: there is none.
    """
    for each in FORMATS:
        if each.name == name:
            return each
    names = ", ".join(each.name for each in FORMATS)
    raise ExportError(f"{name!r} is no format that hvdkit exports to; it exports to {names}.")


def _require_integers(path: Path) -> None:
    """Raise where LiteRT's converter has left all weights as they were."""
    from ai_edge_litert.interpreter import Interpreter

    details = Interpreter(str(path)).get_tensor_details()
    if not any(np.dtype(each["dtype"]) == np.int8 for each in details):
        raise ExportError(
            "LiteRT quantizes weights of 1024 numbers and more, and this model has none: export it "
            "without quantization."
        )


def _tables(interface: Interface) -> list[str]:
    names = [
        each.name
        for each in _layers(interface.model)
        if any(base.__name__ in _TABLES for base in type(each).__mro__)
    ]
    if not names:
        return []
    return [
        f"layers that look up words or numbers ({', '.join(names)}): export the model that comes "
        "after them and prepare its inputs before, or export to savedmodel"
    ]


def _computed_in(interface: Interface, *dtypes: str) -> list[str]:
    found = {each.compute_dtype for each in _layers(interface.model)} & set(dtypes)
    if not found:
        return []
    return [f"layers that compute in {min(found)}: load the weights into a float32 model"]


def _layers(model: keras.Model) -> list[keras.Layer]:
    return list(model._flatten_layers(include_self=False))


def _require(*packages: str) -> None:
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise InstallationError(
                f"{package} is needed: {error}. Run\n    pip install 'hvdkit[export]'"
            ) from error


def _require_small(interface: Interface, what: str) -> None:
    size = sum(
        each.value.dtype.size * each.value.shape.num_elements() for each in interface.model.weights
    )
    if size > _MOST_BYTES:
        raise ExportError(
            f"{what} holds 2 GiB at most, and the weights of {interface.model.name} are "
            f"{size / 2**30:.1f} GiB: export to savedmodel."
        )
