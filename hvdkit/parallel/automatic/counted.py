"""A Keras model as the planner sees it: blocks that are counted, for each tensor degree."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import keras
import tensorflow as tf

from hvdkit.graph.layer_sequence import LayerSequence, operations_of
from hvdkit.keras_internals import get_keras_mask
from hvdkit.parallel.automatic.calls import Call, Calls
from hvdkit.parallel.automatic.dividing import find_calls, find_roles, no_layer
from hvdkit.parallel.automatic.kinds import Columns, Gathered, Roles, Row, Rows
from hvdkit.parallel.automatic.staging import cut_names
from hvdkit.planner.keras_model import flops_of
from hvdkit.planner.layered import Block, LayeredModel


def counted(
    model: keras.Model,
    sequence: LayerSequence,
    degrees: Iterable[int],
    length: int | None,
    has_mpi: bool,
    micro_batches: int | None,
) -> LayeredModel:
    """Count what the blocks of a model compute, keep and send; nothing is changed.

    Args:
        model: the model.
        sequence: its layers.
        degrees: the tensor degrees to look at.
        length: sizes of inputs that the model leaves open.
        has_mpi: whether stages can send to each other.
        micro_batches: of a pipeline; None for any number.

    Raises:
        ValueError: the model has no weights, sizes are not known, or it does not run on a sample.
    """
    _require_sizes(model, sequence, length)
    try:
        calls = find_calls(model, sequence, 1, {}, length)
    # A model may raise anything.
    except Exception as error:
        raise ValueError(
            f"no mesh can be planned for model {model.name!r}, as it can't be run on a random "
            f"batch: {type(error).__name__}: {error} Give mesh=, such as hvd.Mesh()."
        ) from error
    divisions = {1: _blocks(sequence, calls, Roles(), 1)}
    indivisible = {}
    for degree in degrees:
        if degree == 1:
            continue
        roles = find_roles(model, calls, degree)
        if roles.layers:
            divisions[degree] = _blocks(sequence, calls, roles, degree)
        else:
            indivisible[degree] = no_layer(roles)
    return LayeredModel(
        model.name, divisions, indivisible, _no_stages(sequence, has_mpi), micro_batches
    )


def _no_stages(sequence: LayerSequence, has_mpi: bool) -> str | None:
    """What a pipeline of a model would be refused for; None for nothing."""
    if not has_mpi:
        return "stages send over MPI, and this job has none."
    if any(get_keras_mask(tensor) is not None for tensor in sequence.outputs):
        return "a mask reaches its outputs, and the loss of a pipeline would take no notice."
    if any(tensor.dtype == "string" for tensor in sequence.outputs):
        return "it returns text, which stages do not send."
    return None


def _require_sizes(model: keras.Model, sequence: LayerSequence, length: int | None) -> None:
    if not model.variables:
        raise ValueError(f"model {model.name!r} has no weights: there is nothing to train.")
    for tensor in sequence.inputs:
        if length is None and any(size is None for size in tensor.shape[1:]):
            raise ValueError(
                f"no mesh can be planned for model {model.name!r}, as its input {tensor.name!r} "
                f"has an open size, {tensor.shape}: give length=, such as that of your texts, or "
                "mesh=, such as hvd.Mesh()."
            )


def _blocks(sequence: LayerSequence, calls: Calls, roles: Roles, degree: int) -> tuple[Block, ...]:
    counting = _Counting(calls, roles, degree)
    given = {id(tensor) for tensor in sequence.inputs}
    ends = [0, *calls.ends]
    found = []
    for start, stop in pairwise([0, *cut_names(sequence), len(sequence.steps)]):
        goes_on = stop < len(sequence.steps)
        leaving = [t for t in sequence.crossing(stop) if id(t) not in given] if goes_on else []
        entries = calls.entries[ends[start] : ends[stop]]
        inside = [entry for entry in entries if isinstance(entry, Call)]
        found.append(counting.block(inside, operations_of(sequence.steps[start:stop]), leaving))
    return tuple(found)


@dataclass
class _Counting:
    """What blocks consist of for a rank of a tensor group; they are counted one after the other."""

    calls: Calls
    roles: Roles
    degree: int

    def __post_init__(self) -> None:
        rows = next(iter(self.calls.sample.values())).shape[0] if self.calls.sample else 1
        self._rows = max(int(rows), 1)
        self._known: set[int] = set()

    def block(self, calls: Sequence[Call], operations: Sequence[Any], leaving: Any) -> Block:
        weights, trained, tied = self._weights(operations)
        sums = list(self._sums(calls))
        return Block(
            flops=sum(map(self._flops, calls)),
            kept=sum(self._size(t) for call in calls for t in call.step.outputs),
            weights=weights,
            trained=trained,
            tied=tied,
            calls=len(calls),
            sums=len(sums),
            summed=sum(sums),
            leaving=sum(self._size(t) for t in leaving),
        )

    def _weights(self, operations: Sequence[Any]) -> tuple[int, int, int]:
        """Numbers of weights, of those that are trained, and of those that were there before."""
        weights = trained = tied = 0.0
        for layer in (x for x in operations if isinstance(x, keras.layers.Layer)):
            shares = {
                id(v): share for each in layer._flatten_layers() for v, share in self._of(each)
            }
            for variable in layer.weights:
                size = math.prod(variable.shape) / shares.get(id(variable), 1)
                if id(variable) in self._known:
                    tied += size
                    continue
                self._known.add(id(variable))
                weights += size
                trained += size if variable.trainable else 0
        return int(weights), int(trained), int(tied)

    def _of(self, layer: Any) -> Iterable[tuple[Any, int]]:
        """The weights of a layer that are sharded, with the degree."""
        _, role = self.roles.layers.get(id(layer), (None, None))
        if isinstance(role, (Columns, Gathered, Rows)):
            return [(v, self.degree) for v in layer.weights]
        if isinstance(role, Row):
            return [(v, self.degree) for v in layer.weights if v is not layer.bias]
        return []

    def _flops(self, call: Call) -> float:
        step, sample = call.step, self.calls.sample
        inputs, outputs = (
            [tuple(sample[id(t)].shape) for t in tensors]
            for tensors in (step.input_tensors, step.outputs)
        )
        sharded = id(step.operation) in self.roles.layers or any(
            id(t) in self.roles.sharded for t in step.outputs
        )
        return flops_of(step.operation, inputs, outputs) / (self.degree if sharded else 1)

    def _sums(self, calls: Sequence[Call]) -> Iterable[float]:
        """Numbers of a row of each collective over the tensor group, forward and backward."""
        entered: set[int] = set()
        for call in calls:
            _, role = self.roles.layers.get(id(call.step.operation), (None, None))
            made, given = self._size(call.step.outputs[0]), call.step.input_tensors[:1]
            looked_up = isinstance(role, Rows) and not call.step.arguments.kwargs.get("reverse")
            if isinstance(role, Row) or looked_up:
                yield made
            elif isinstance(role, (Gathered, Rows)):
                yield made / 2  # a gather is half of an all-reduce
            if isinstance(role, (Columns, Gathered, Rows)) and not looked_up:
                for tensor in given:
                    if id(tensor) not in entered:
                        entered.add(id(tensor))
                        yield self._size(tensor)

    def _size(self, tensor: Any) -> float:
        """Numbers of a row of a tensor on a rank; whole numbers and truths are not counted."""
        value = self.calls.sample[id(tensor)]
        if not tf.as_dtype(value.dtype).is_floating:
            return 0.0
        share = self.degree if id(tensor) in self.roles.sharded else 1
        return float(math.prod(value.shape)) / self._rows / share
