"""Pairs of Dense layers: what is between them are neurons, which can be left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from hvdkit.compress.groups import Group, Slice
from hvdkit.graph.layer_sequence import LayerSequence, Step

_BY_ELEMENT = (
    keras.layers.Dropout,
    keras.layers.ELU,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.Identity,
    keras.layers.LeakyReLU,
    keras.layers.ReLU,
)


def pairs_of(sequence: LayerSequence) -> Iterator[tuple[Any, Group | str]]:
    """The Dense layers of a model, each with its neurons or the reason why it can't be pruned.

    Args:
        sequence: of a functional model.
    """
    for step in sequence.steps:
        if type(step.operation) is keras.layers.Dense:
            yield step.operation, _neurons_of(step, sequence)


def _neurons_of(step: Step, sequence: LayerSequence) -> Group | str:
    layer = step.operation
    problem = _problem_of(layer, sequence)
    if problem is None and not _is_by_element(layer.activation):
        problem = "its activation looks at all of its units"
    if problem is not None:
        return problem
    beside: list[Slice] = []
    while True:
        after = _only_user(step, sequence)
        if isinstance(after, str):
            return after
        step, operation = after, after.operation
        if type(operation) is keras.layers.Dense:
            break
        if not _passes_units(operation):
            return f"what it gives goes to {operation.name}, and not to another Dense layer"
        beside += [Slice(variable, 0) for variable in operation.weights]
    problem = _problem_of(operation, sequence)
    if problem is not None:
        return f"it goes to {operation.name}, and {problem}"
    slices = [Slice(layer.kernel, 1), Slice(operation.kernel, 0)]
    if layer.use_bias:
        slices.append(Slice(layer.bias, 0))
    return Group(layer, layer.name, layer.units, tuple(slices), tuple(beside), "units")


def _problem_of(layer: Any, sequence: LayerSequence) -> str | None:
    if sum(step.operation is layer for step in sequence.steps) > 1:
        return "it is called more than once"
    return problem_of_kernel(layer)


def problem_of_kernel(layer: Any) -> str | None:
    """Why a layer's kernel is not one variable of floats; None if it is."""
    if getattr(layer, "lora_enabled", False):
        return "it has LoRA weights"
    if getattr(layer, "quantization_mode", None) not in (None, "float8"):
        return f"it is quantized ({layer.quantization_mode})"
    return None


def _only_user(step: Step, sequence: LayerSequence) -> Step | str:
    """The one step that takes what another gives, and nothing else."""
    (tensor,) = step.outputs
    users = [s for s in sequence.steps if any(t is tensor for t in s.input_tensors)]
    if any(output is tensor for output in sequence.outputs):
        return "what it gives is an output of the model"
    if len(users) != 1 or len(users[0].input_tensors) != 1:
        return "what it gives goes to several layers, or meets something else"
    return users[0]


def _passes_units(operation: Any) -> bool:
    if type(operation) is keras.layers.BatchNormalization:
        return operation.axis in (-1, len(operation.input.shape) - 1)
    if type(operation) is keras.layers.Activation:
        return _is_by_element(operation.activation)
    return type(operation) in _BY_ELEMENT


def _is_by_element(activation: Any) -> bool:
    """Whether a function does the same without some of the units; softmax does not."""
    units = np.random.default_rng(0).normal(size=(2, 6)).astype("float32")
    whole = np.asarray(keras.ops.convert_to_numpy(activation(units)))
    some = np.asarray(keras.ops.convert_to_numpy(activation(units[:, ::2])))
    return whole.shape == units.shape and np.allclose(whole[:, ::2], some, atol=1e-5)
