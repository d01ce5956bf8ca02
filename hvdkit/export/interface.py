"""How a Keras model is called: arrays by name in, arrays by name out, whatever its structure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.errors import ExportError
from hvdkit.export.runtimes.base import TEXT, TensorSpec, as_bytes, as_text
from hvdkit.graph.layer_sequence import graph_of
from hvdkit.keras_internals import has_keras_call

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_]")


@dataclass(frozen=True, eq=False)
class Interface:
    """A Keras model with a name for each tensor that goes in.

    Attributes:
        model: the model.
        structure: what it is called with, a `keras.InputSpec` in the place of each tensor.
        inputs: what goes in, in the order of the flat structure.
    """

    model: keras.Model
    structure: Any
    inputs: Sequence[TensorSpec]

    def __call__(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Call the model as for inference.

        Args:
            tensors: a tensor for each input, by name.

        Returns:
            Its outputs by name, see `named_outputs`.
        """
        flat = [tensors[spec.name] for spec in self.inputs]
        outputs = self.model(keras.tree.pack_sequence_as(self.structure, flat), training=False)
        return named_outputs(outputs, [spec.name for spec in self.inputs])

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """As `__call__`, with arrays, text as `str`."""
        return as_arrays(self(self.as_tensors(arrays)))

    def as_tensors(self, arrays: Mapping[str, np.ndarray]) -> dict[str, tf.Tensor]:
        """Tensors of arrays."""
        return {
            spec.name: tf.constant(
                as_bytes(arrays[spec.name]) if spec.dtype == TEXT else arrays[spec.name]
            )
            for spec in self.inputs
        }

    def with_sizes(self, batch_size: int | None, length: int | None) -> Interface:
        """The interface with numbers for open sizes.

        Args:
            batch_size: the first size of all inputs; None leaves it open.
            length: all others that are open; None leaves them so.
        """
        inputs = [
            replace(
                spec,
                shape=(
                    spec.shape[0] if batch_size is None else batch_size,
                    *(length if size is None else size for size in spec.shape[1:]),
                ),
            )
            for spec in self.inputs
        ]
        return replace(self, inputs=inputs)

    def signature(self) -> dict[str, tf.TensorSpec]:
        """What TensorFlow traces the model with; the batch is of any size."""
        return {
            spec.name: tf.TensorSpec(
                spec.shape, tf.string if spec.dtype == TEXT else spec.dtype, name=spec.name
            )
            for spec in self.inputs
        }


def interface_of(model: keras.Model, inputs: Any = None) -> Interface:
    """The interface of a model.

    Args:
        model: a built model.
        inputs: what it is called with, as one structure of arrays or `keras.InputSpec`; only for
            models whose `call` is Python code, which don't know it. The first size of an array
            is the batch's, which is any in the end.

    Raises:
        ExportError: it is not built, or what goes in is not known.
    """
    if not isinstance(model, keras.Model):
        raise ExportError(f"{type(model).__name__} is no Keras model.")
    if not model.built:
        raise ExportError(
            f"the model {model.name} is not built, so it has no weights yet: give it a keras.Input,"
            " or call it once."
        )
    if inputs is not None:
        structure = keras.tree.map_structure(_spec_of_example, inputs)
        paths = [path for path, _ in keras.tree.flatten_with_path(structure)]
        flat = keras.tree.flatten(structure)
        names = [_name(path, "input", spec.name) for path, spec in zip(paths, flat, strict=True)]
    elif has_keras_call(model):
        graph = graph_of(model)._inputs_struct
        structure = keras.tree.map_structure(_spec_of_input, graph)
        if any(getattr(layer, "stateful", False) is True for layer in model._flatten_layers()):
            structure = keras.tree.map_structure(_with_own_batch, structure, graph)
        flat = keras.tree.flatten(structure)
        names = [
            _name(path if isinstance(graph, dict) else (), "input", spec.name)
            for (path, _), spec in zip(keras.tree.flatten_with_path(graph), flat, strict=True)
        ]
    else:
        raise ExportError(
            f"{type(model).__name__}.call is Python code, so what goes into the model "
            f"{model.name} is not known: give inputs=, as keras.InputSpec or as a batch of it."
        )
    specs = [
        TensorSpec(name, TEXT if spec.dtype == "string" else spec.dtype, tuple(spec.shape))
        for name, spec in zip(_distinct(names), flat, strict=True)
    ]
    return Interface(model, structure, specs)


def named_outputs(outputs: Any, inputs: Sequence[str] = ()) -> dict[str, Any]:
    """What a model returns, by name: its own names where it returns a dict, else `output_0`, ...

    Args:
        outputs: what it returns.
        inputs: names that are taken: ONNX can't call an output as an input is called.
    """
    flat = keras.tree.flatten_with_path(outputs)
    if isinstance(outputs, dict):
        names = [_name(path, "output", None) for path, _ in flat]
    else:
        names = [f"output_{number}" for number in range(len(flat))]
    distinct = _distinct([*inputs, *names])[len(inputs) :]
    return dict(zip(distinct, (tensor for _, tensor in flat), strict=True))


def as_arrays(tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays of tensors, text as `str`."""
    return {
        name: as_text(tensor.numpy()) if tensor.dtype == tf.string else tensor.numpy()
        for name, tensor in tensors.items()
    }


def _spec_of_input(tensor: Any) -> keras.InputSpec:
    shape = (None, *tensor.shape[1:])
    if tensor.sparse or getattr(tensor, "ragged", False):
        raise ExportError(
            f"the input {tensor.name} is sparse or ragged, which no runtime takes: make a model "
            "around this one that takes dense tensors."
        )
    return keras.InputSpec(shape=shape, dtype=tensor.dtype, name=tensor.name)


def _with_own_batch(spec: keras.InputSpec, tensor: Any) -> keras.InputSpec:
    """The spec with the batch that the model was made for, as its states are of that size."""
    return keras.InputSpec(
        shape=(tensor.shape[0], *spec.shape[1:]), dtype=spec.dtype, name=spec.name
    )


def _spec_of_example(example: Any) -> keras.InputSpec:
    if isinstance(example, keras.InputSpec):
        if example.shape is None or example.dtype is None:
            raise ExportError(f"{example} says no shape, or no dtype.")
        return keras.InputSpec(
            shape=(None, *example.shape[1:]), dtype=example.dtype, name=example.name
        )
    array = np.asarray(example)
    dtype = "string" if array.dtype.kind in "UOS" else array.dtype.name
    return keras.InputSpec(shape=(None, *array.shape[1:]), dtype=dtype)


def _name(path: Sequence[Any], default: str, name: str | None) -> str:
    """The name of a tensor: the keys that lead to it, else its own, else by its number."""
    words = "_".join(str(each) for each in path)
    if any(isinstance(each, str) for each in path):
        return words
    return name or f"{default}_{words or 0}"


def _distinct(names: Sequence[str]) -> list[str]:
    """Names that all formats take, no two of them alike."""
    made: list[str] = []
    for name in names:
        legal = _NOT_IN_NAMES.sub("_", name)
        legal = legal if legal[:1].isalpha() else f"_{legal}"
        number, distinct = 1, legal
        while distinct in made:
            number, distinct = number + 1, f"{legal}_{number}"
        made.append(distinct)
    return made
