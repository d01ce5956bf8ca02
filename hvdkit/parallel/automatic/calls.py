"""The calls of a model's layers, with those inside of composite layers, and what each one made.

What a composite layer (a nested model, a block of one's own, `MultiHeadAttention`) does inside is
found out by calling it on symbolic tensors: Keras then notes each call of a layer or operation.
That such a list of calls is what the layer does is tried on a sample, not believed.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.graph.layer_sequence import LayerSequence, Step
from hvdkit.keras_internals import compute_output_spec, get_keras_mask, set_keras_mask
from hvdkit.parallel.automatic.weighted import output_shape

Tensors = dict[int, Any]
"""What a tensor of the graph is in the sample, by the id of the symbolic tensor."""


@dataclass(frozen=True)
class Call:
    """A call of a layer or of an operation.

    Attributes:
        step: Keras's node of it.
        path: names of the composite layers around it, and last its own.
    """

    step: Step
    path: tuple[str, ...]

    @property
    def name(self) -> str:
        """How messages name it."""
        return f"{'/'.join(self.path)} ({type(self.step.operation).__name__})"


@dataclass(frozen=True)
class Renamed:
    """Tensors that go into a composite layer, or come out: each is the same as another one."""

    pairs: tuple[tuple[Any, Any], ...]


@dataclass
class Calls:
    """All calls of a model in order, and a sample of what goes between them.

    Attributes:
        entries: the calls, and where tensors get other names.
        sample: what each tensor is in the sample.
        inputs: the model's inputs.
        outputs: the model's outputs.
        whole: composite layers that are taken as they are, by the layer's id, with the reason.
        ends: for each step of the model, how many entries there are up to its end.
    """

    entries: list[Call | Renamed] = field(default_factory=list)
    sample: Tensors = field(default_factory=dict)
    inputs: tuple[Any, ...] = ()
    outputs: tuple[Any, ...] = ()
    whole: dict[int, str] = field(default_factory=dict)
    ends: list[int] = field(default_factory=list)

    @property
    def calls(self) -> Iterator[Call]:
        """The calls alone."""
        return (entry for entry in self.entries if isinstance(entry, Call))


def calls_of(
    sequence: LayerSequence, sample: Tensors, whole: Mapping[int, str], dividable: Any
) -> Calls:
    """Find the calls of a model, inside of composite layers too, by running it on a sample.

    Args:
        sequence: the model's.
        sample: what its inputs are in the sample.
        whole: composite layers into which not to look, by their ids, with the reason.
        dividable: says of a layer whether it could be divided: only composites with such are
            looked into.
    """
    found = Calls([], dict(sample), sequence.inputs, sequence.outputs, dict(whole))
    for step in sequence.steps:
        _add(found, [step], (), dividable)
        found.ends.append(len(found.entries))
    return found


def run(step: Step, tensors: Tensors) -> list[Any]:
    """What a step's layer makes of the tensors that stand for its own, in inference."""
    args, kwargs = step.arguments.fill_in(tensors)
    if "training" in getattr(step.operation, "_call_context_args", ()):
        kwargs["training"] = False
    return list(keras.tree.flatten(step.operation(*args, **kwargs)))


def _add(found: Calls, steps: Iterable[Step], around: tuple[str, ...], dividable: Any) -> None:
    for step in steps:
        path = (*around, step.operation.name)
        # Before the call, as attention takes the masks away from what it is given.
        masks = {id(t): get_keras_mask(found.sample[id(t)]) for t in step.input_tensors}
        made = run(step, found.sample)
        inner = _looked_into(found, step, path, masks, made, dividable)
        if not inner:
            found.entries.append(Call(step, path))
        found.sample.update(
            {id(tensor): value for tensor, value in zip(step.outputs, made, strict=True)}
        )


def _looked_into(
    found: Calls,
    step: Step,
    path: tuple[str, ...],
    masks: Tensors,
    made: list[Any],
    dividable: Any,
) -> bool:
    """Add the calls inside of a composite layer; whether it is one whose calls are known."""
    layer = step.operation
    if not isinstance(layer, keras.layers.Layer) or dividable(layer) or id(layer) in found.whole:
        return False
    if not any(map(dividable, layer._flatten_layers(include_self=False))):
        return False
    before = len(found.entries)
    try:
        inputs, given_masks, outputs, steps = _inside(step, found.sample, masks)
        found.entries.append(Renamed(tuple(inputs)))
        for old, new in inputs:
            # In the type in which the layer takes it.
            found.sample[id(new)] = tf.cast(found.sample[id(old)], new.dtype)
        found.sample.update({id(new): mask for mask, new in given_masks})
        _add(found, steps, path, dividable)
        own = [found.sample[id(tensor)] for tensor in outputs]
        problem = None if _alike(own, made) else "its calls of layers give something else"
    # A layer's own code may raise anything on symbolic tensors.
    except Exception as error:
        problem = f"{type(error).__name__} when its calls were looked at"
    if problem is not None:
        del found.entries[before:]
        found.whole[id(layer)] = f"{problem}: what its call() does is more than calls of layers"
        return False
    found.entries.append(Renamed(tuple(zip(outputs, step.outputs, strict=True))))
    return True


Pairs = list[tuple[Any, Any]]


def _inside(
    step: Step, sample: Tensors, masks: Tensors
) -> tuple[Pairs, Pairs, list[Any], list[Step]]:
    """Pairs of outer and inner inputs, and masks, the inner outputs, and the calls between them."""
    layer = step.operation
    inner: dict[int, Any] = {}
    inputs: Pairs = []
    inner_masks: Pairs = []
    for tensor in step.input_tensors:
        if id(tensor) in inner:
            continue
        value, mask = sample[id(tensor)], masks[id(tensor)]
        dtype = value.dtype
        if dtype.is_floating and getattr(layer, "autocast", True):
            dtype = tf.as_dtype(layer.compute_dtype)
        new = keras.Input(batch_shape=value.shape, dtype=dtype.name)
        if mask is not None:
            new_mask = keras.Input(batch_shape=mask.shape, dtype=mask.dtype.name)
            set_keras_mask(new, new_mask)
            inner_masks.append((mask, new_mask))
        inner[id(tensor)] = new
        inputs.append((tensor, new))
    args, kwargs = step.arguments.fill_in(inner)
    if "training" in getattr(layer, "_call_context_args", ()):
        kwargs["training"] = False
    kwargs.update(_mask_arguments(layer, args, kwargs))
    with _known_shapes(layer):
        outputs = keras.tree.flatten(layer.call(*args, **kwargs))
    given = {id(new) for _, new in (*inputs, *inner_masks)}
    return inputs, inner_masks, outputs, _behind(outputs, given)


def _mask_arguments(layer: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """The masks that Keras gives to a layer's `call` with the tensors that have them."""
    signature = inspect.signature(layer.call)
    bound = signature.bind(*args, **kwargs).arguments
    tensors = {
        name: value
        for name, value in bound.items()
        if any(isinstance(each, keras.KerasTensor) for each in keras.tree.flatten(value))
    }
    found = {}
    for name, value in tensors.items():
        own = "mask" if len(tensors) == 1 else f"{name}_mask"
        if own in signature.parameters and bound.get(own) is None:
            found[own] = keras.tree.map_structure(get_keras_mask, value)
    return found


@contextmanager
def _known_shapes(composite: Any) -> Iterator[None]:
    """While inside, layers say the sizes of what they return, also where Keras leaves them open.

    `EinsumDense` does not say how long a sequence is if its `output_shape` has None there, and code
    that asks for the length then works on tensors only.
    """
    replaced = []
    for layer in composite._flatten_layers(include_self=False):
        if isinstance(layer, keras.layers.EinsumDense):
            replaced.append((layer, "compute_output_shape", partial(output_shape, layer)))
        elif layer._layers:
            # What a composite says of itself may leave out arguments of a subclass's `call`.
            spec = partial(compute_output_spec, layer.call)
            replaced.append((layer, "compute_output_spec", spec))
    for layer, name, function in replaced:
        vars(layer)[name] = function
    try:
        yield
    finally:
        for layer, name, _ in replaced:
            del vars(layer)[name]


def _behind(outputs: list[Any], inputs: set[int]) -> list[Step]:
    """The calls that make some tensors of others, each after those that it needs."""
    steps: list[Step] = []
    seen: set[int] = set()

    def visit(tensor: Any) -> None:
        if id(tensor) in inputs:
            return
        history = tensor._keras_history
        node = history.operation._inbound_nodes[history.node_index]
        if id(node) in seen:
            return
        seen.add(id(node))
        for needed in node.arguments.keras_tensors:
            visit(needed)
        steps.append(node)

    for tensor in outputs:
        visit(tensor)
    return steps


def _alike(own: list[Any], made: list[Any]) -> bool:
    return len(own) == len(made) and all(
        mine.shape == other.shape and close(mine, other)
        for mine, other in zip(own, made, strict=True)
    )


def close(mine: Any, other: Any, times: float = 1.0) -> bool:
    """Whether two tensors are the same up to the rounding of their type.

    Args:
        mine: a tensor.
        other: another one, of the same shape.
        times: how many times the rounding of one layer is let pass.
    """
    dtype = tf.as_dtype(other.dtype)
    one, two = np.asarray(mine), np.asarray(other)
    if not dtype.is_floating:
        return bool(np.array_equal(one, two))
    tolerance = times * (1e-5 if dtype.size >= 4 else 2e-2)
    one, two = one.astype("float64"), two.astype("float64")
    largest = max(float(np.max(np.abs(two), initial=0.0, where=np.isfinite(two))), 1e-6)
    return bool(np.allclose(one, two, rtol=tolerance, atol=tolerance * largest, equal_nan=True))
