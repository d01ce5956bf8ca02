"""Keras models of the parts that `cutting` has found, with the layers themselves or copies."""

from __future__ import annotations

import contextlib
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras.src.backend.common import global_state

from hvdkit.parallel.cutting import Line, Part, line_of

_COUNTS = "object_name_uids"  # Keras's, of the names that it has given


def part_model(part: Part, name: str, *, copy: bool = False) -> keras.Model:
    """A functional model of a part, which takes and returns lists of tensors.

    Args:
        part: a part of a model, from `Line.cut`.
        name: the new model's name.
        copy: whether it gets new layers with the same names, weights and states of seed
            generators, made on the device whose scope this is called in. The original's layers are
            used otherwise.

    Returns:
        A model from `part.inputs` to `part.outputs`.

    Raises:
        ValueError: a layer's configuration does not describe its weights, so it can't be copied.
    """
    copies = _Copies()
    pick = copies.of if copy else _itself
    with undrawn():
        inputs = [_input_like(t, f"{name}_input{i}") for i, t in enumerate(part.inputs)]
        tensors = {id(old): new for old, new in zip(part.inputs, inputs, strict=True)}
        _replay(part.steps, tensors, pick)
        model = keras.Model(inputs, [tensors[id(t)] for t in part.outputs], name=name)
    copies.take_weights()
    return model


def flattened(model: keras.Model) -> keras.Model:
    """The same model with the layers of nested models as its own, for more places to cut.

    The layers are the original's, so weights are shared with it. A nested model with Python code
    of its own stays whole.

    Raises:
        ValueError: the model can't be cut, or layers in different nested models have one name.
    """
    line = line_of(model)
    if not any(_inner_line(step.operation) for step in line.steps):
        return model

    def between(inputs: list[Any]) -> list[Any]:
        tensors = {id(old): new for old, new in zip(line.inputs, inputs, strict=True)}
        _replay_flat(line.steps, tensors)
        return [tensors[id(t)] for t in line.outputs]

    return model_like(line, between)


def model_like(line: Line, between: Callable[[list[Any]], Sequence[Any]]) -> keras.Model:
    """A functional model with the name, inputs and outputs of another one.

    Args:
        line: the other model's.
        between: gives the list of outputs for the list of inputs, both in the model's order.
    """
    inputs = [_input_like(t, t._keras_history.operation.name) for t in line.inputs]
    outputs = list(between(inputs))
    pack = keras.tree.pack_sequence_as
    return keras.Model(
        pack(line.input_structure, inputs), pack(line.output_structure, outputs), name=line.name
    )


@contextlib.contextmanager
def undrawn() -> Iterator[None]:
    """What is drawn inside from Python's and NumPy's generators is drawn again afterwards.

    New layers draw seeds. A script that makes them only to give them other weights goes on as if
    it had not.
    """
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextlib.contextmanager
def uncounted() -> Iterator[None]:
    """Names that Keras makes inside by counting are made again afterwards.

    So layers that one rank alone makes do not let the names of later ones differ between ranks.
    """
    counts = dict(global_state.get_global_attribute(_COUNTS) or {})
    try:
        yield
    finally:
        global_state.set_global_attribute(_COUNTS, defaultdict(int, counts))


class _Copies:
    """Layers made from the configurations of others, each once."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[Any, Any]] = {}

    def of(self, operation: Any) -> Any:
        if id(operation) not in self._made:
            copy = type(operation).from_config(operation.get_config())
            self._made[id(operation)] = operation, copy
        return self._made[id(operation)][1]

    def take_weights(self) -> None:
        for original, copy in self._made.values():
            if isinstance(original, keras.layers.Layer):
                copy_variables(original, copy)


def copy_variables(original: Any, copy: Any) -> None:
    """Give all variables of a layer, states of seed generators among them, to its copy.

    Raises:
        ValueError: they do not have the same variables.
    """
    made, given = copy.variables, original.variables
    if [tuple(v.shape) for v in made] != [tuple(v.shape) for v in given]:
        raise ValueError(
            f"layer {original.name!r} ({type(original).__name__}) can't be copied: made again from "
            "its get_config() it has other variables. Let get_config() hold all that __init__ "
            "takes, or split the model before the layer is changed."
        )
    for new, old in zip(made, given, strict=True):
        new.assign(old)


def _itself(operation: Any) -> Any:
    return operation


def _input_like(tensor: Any, name: str) -> Any:
    return keras.Input(
        batch_shape=tensor.shape, dtype=tensor.dtype, sparse=tensor.sparse, name=name
    )


def _replay(steps: tuple[Any, ...], tensors: dict[int, Any], pick: Callable[[Any], Any]) -> None:
    """Call each step's layer again, on the tensors that stand for its own."""
    for step in steps:
        args, kwargs = step.arguments.fill_in(tensors)
        _put(tensors, step, pick(step.operation)(*args, **kwargs))


def _replay_flat(steps: tuple[Any, ...], tensors: dict[int, Any]) -> None:
    for step in steps:
        inner = _inner_line(step.operation)
        if inner is None:
            _replay((step,), tensors, _itself)
            continue
        given = [tensors[id(t)] for t in keras.tree.flatten(step.arguments.args)]
        inside = {id(old): new for old, new in zip(inner.inputs, given, strict=True)}
        _replay_flat(inner.steps, inside)
        _put(tensors, step, [inside[id(t)] for t in inner.outputs])


def _put(tensors: dict[int, Any], step: Any, outputs: Any) -> None:
    for old, new in zip(step.outputs, keras.tree.flatten(outputs), strict=True):
        tensors[id(old)] = new


def _inner_line(operation: Any) -> Line | None:
    """The line of a nested model, or None for a layer or a model that can't be cut."""
    if not isinstance(operation, keras.Model):
        return None
    try:
        return line_of(operation)
    except ValueError:
        return None
