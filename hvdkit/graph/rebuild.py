"""Keras models of the parts of a model, made of the layers themselves."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from hvdkit.graph.layer_sequence import LayerSequence, Part, Step
from hvdkit.keras_internals import (
    NAME_COUNTS,
    Functional,
    global_attribute,
    replaced_global_attribute,
)


@keras.saving.register_keras_serializable("hvdkit")
class PartModel(Functional):
    """A functional model that takes its inputs as they come.

    The model that it is a part of has checked and converted them, and inside of a model Keras
    checks no static shapes, which are not always true.
    """

    _penalized_elsewhere: frozenset[int] = frozenset()

    def leave_penalties_of(self, variables: Iterable[Any]) -> None:
        """Let another part compute what the regularizers of some variables add to the loss."""
        self.__dict__["_penalized_elsewhere"] = frozenset(id(variable) for variable in variables)

    def _get_regularization_losses(self) -> list[Any]:
        return [
            variable.regularizer(variable)
            for variable in self.trainable_weights
            if variable.regularizer is not None and id(variable) not in self._penalized_elsewhere
        ]

    @property
    def input_spec(self) -> None:
        """Nothing is checked."""
        return None

    def get_config(self) -> Any:
        """As of every functional model, with layers of different names."""
        with distinct_names(self.operations):
            return super().get_config()

    def _assert_input_compatibility(self, *args: Any) -> None:
        pass

    def _standardize_inputs(self, inputs: Any) -> list[Any]:
        flat: list[Any] = keras.tree.flatten(inputs)
        return flat


def part_model(part: Part, name: str) -> PartModel:
    """A functional model of a part, with its layers, which takes and returns lists of tensors.

    Args:
        part: a part of a model, from `LayerSequence.cut`.
        name: the new model's name.

    Returns:
        A model from `part.inputs` to `part.outputs`.
    """
    with undrawn():
        inputs = [_input_like(t, f"{name}_input{i}") for i, t in enumerate(part.inputs)]
        tensors = {id(old): new for old, new in zip(part.inputs, inputs, strict=True)}
        for step in part.steps:
            replay(step, tensors)
        outputs = [tensors[id(t)] for t in part.outputs]
        with distinct_names(operations_behind(outputs)):
            return PartModel(inputs, outputs, name=name)


def inputs_like(sequence: LayerSequence) -> list[Any]:
    """New inputs as a model has them, with the same names."""
    return [_input_like(t, t._keras_history.operation.name) for t in sequence.inputs]


def model_like(
    sequence: LayerSequence, between: Callable[[list[Any]], Sequence[Any]]
) -> keras.Model:
    """A functional model with the name, inputs and outputs of another one.

    Args:
        sequence: the other model's.
        between: gives the list of outputs for the list of inputs, both in the model's order.
    """
    return keras.Model(*ends_like(sequence, between), name=sequence.name)


def ends_like(
    sequence: LayerSequence, between: Callable[[list[Any]], Sequence[Any]]
) -> tuple[Any, Any]:
    """The inputs and outputs of `model_like`, in the structure of the other model's."""
    inputs = inputs_like(sequence)
    outputs = list(between(inputs))
    pack = keras.tree.pack_sequence_as
    return pack(sequence.input_structure, inputs), pack(sequence.output_structure, outputs)


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
    counts = global_attribute(NAME_COUNTS) or {}
    with replaced_global_attribute(NAME_COUNTS, defaultdict(int, counts)):
        yield


@contextlib.contextmanager
def distinct_names(operations: Sequence[Any]) -> Iterator[None]:
    """While inside, layers have different names, as Keras asks of those of one model.

    Those of different nested models may have the same.
    """
    names = [op.name for op in operations]
    taken: set[str] = set()
    try:
        for operation, name in zip(operations, names, strict=True):
            others = taken.union(names) if name in taken else taken
            choices = itertools.chain([name], (f"{name}_{i}" for i in itertools.count(1)))
            operation.name = next(choice for choice in choices if choice not in others)
            taken.add(operation.name)
        yield
    finally:
        for operation, name in zip(operations, names, strict=True):
            operation.name = name


def operations_behind(outputs: Iterable[Any]) -> list[Any]:
    """All operations whose results are needed for some tensors."""
    found: dict[int, Any] = {}
    histories = [tensor._keras_history for tensor in outputs]
    waiting = [history.operation._inbound_nodes[history.node_index] for history in histories]
    while waiting:
        node = waiting.pop()
        if id(node) not in found:
            found[id(node)] = node
            waiting += node.parent_nodes
    return list({id(node.operation): node.operation for node in found.values()}.values())


def _input_like(tensor: Any, name: str) -> Any:
    optional = getattr(tensor._keras_history.operation, "optional", False)
    return keras.Input(
        batch_shape=tensor.shape,
        dtype=tensor.dtype,
        sparse=tensor.sparse,
        ragged=tensor.ragged,
        optional=optional,
        name=name,
    )


def replay(
    step: Step,
    tensors: dict[int, Any],
    operation: Any = None,
    training: bool | None = None,
) -> Any:
    """Call a step's layer again, on the tensors that stand for its own.

    Args:
        step: the step.
        tensors: what stands for each tensor, by its id; what the layer returns is added.
        operation: another layer to call instead.
        training: whether to call it in training mode; None for what it was called with.

    Returns:
        Keras's node of the call.
    """
    operation = step.operation if operation is None else operation
    args, kwargs = step.arguments.fill_in(tensors)
    if training is not None and "training" in getattr(operation, "_call_context_args", ()):
        kwargs["training"] = training
    put(tensors, step, operation(*args, **kwargs))
    return operation._inbound_nodes[-1]


def put(tensors: dict[int, Any], step: Step, outputs: Any) -> None:
    """Note what a step's layer has returned."""
    for old, new in zip(step.outputs, keras.tree.flatten(outputs), strict=True):
        tensors[id(old)] = new
