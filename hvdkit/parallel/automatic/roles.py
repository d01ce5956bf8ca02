"""Which layers of a model are sharded, and how: found by trying each operation between them.

A layer that shards its outputs needs nothing forward if all that comes after it, up to layers that
sum over its outputs, makes of a shard the shard of what it would make of the whole. So all layers
begin as such; an operation between is tried on a sample, whole and with each shard; where that
does not come out, the layers whose outputs went into it are struck, and it begins anew. What is
left are pairs, as the two `Dense` of a feed-forward layer, or query, key, value and output of
attention, with whatever is between them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from hvdkit.parallel.automatic.calls import Call, Calls, Renamed, close
from hvdkit.parallel.automatic.kinds import Columns, Dropped, Gathered, Role, Roles, Row, Rows
from hvdkit.parallel.automatic.weighted import (
    columns_of,
    indivisible,
    is_embedding,
    is_projection,
    obstacle,
    row_axis,
)


class _Struck(Exception):
    """Some layers can't give away shards of their outputs."""

    def __init__(self, layers: frozenset[int], reason: str) -> None:
        super().__init__(reason)
        self.layers = layers


@dataclass(frozen=True)
class _Sharded:
    """How a tensor is sharded, and whose outputs it is made of."""

    axis: int
    origins: frozenset[int]


def roles_of(calls: Calls, degree: int, is_large: Callable[[Any], bool]) -> Roles:
    """Find which layers are sharded over so many ranks, and how.

    Args:
        calls: the model's, with a sample.
        degree: the tensor degree.
        is_large: whether a layer is worth it.
    """
    finding = _Finding(calls, degree, is_large)
    while True:
        try:
            roles = finding.attempt()
            break
        except _Struck as struck:
            new = {i: str(struck) for i in struck.layers if i not in finding.struck}
            assert new, "nothing new was struck, so this would not end"
            finding.struck.update(new)
    finding.add_single_layers(roles)
    return roles


class _Finding:
    def __init__(self, calls: Calls, degree: int, is_large: Callable[[Any], bool]) -> None:
        self.calls = calls
        self.degree = degree
        self.struck: dict[int, str] = {}
        self._is_large = is_large
        self._tried: dict[Any, list[int] | str] = {}
        # What each layer is in this attempt, None for whole, and whose outputs make it that.
        self._taken: dict[int, tuple[Role | None, frozenset[int]]] = {}
        self._learning = _learning(calls)

    def attempt(self) -> Roles:
        """Let all layers that are not struck give away shards, and see where these go.

        Raises:
            _Struck: some can't.
        """
        roles, state = Roles(), dict[int, _Sharded]()
        self._taken = {}
        for entry in self.calls.entries:
            if isinstance(entry, Renamed):
                for old, new in entry.pairs:
                    if id(old) in state:
                        state[id(new)] = state[id(old)]
                continue
            roles.names.setdefault(id(entry.step.operation), entry.name)
            self._follow(entry, state, roles)
        for tensor in self.calls.outputs:
            if id(tensor) in state:
                raise _Struck(state[id(tensor)].origins, "its output is one of the model's")
        roles.sharded = frozenset(state)
        return roles

    def _follow(self, call: Call, state: dict[int, _Sharded], roles: Roles) -> None:
        step, layer = call.step, call.step.operation
        sharded = {id(t): state[id(t)] for t in step.input_tensors if id(t) in state}
        origins = frozenset().union(*(each.origins for each in sharded.values()))
        if is_projection(layer):
            role = self._role(call, sharded, origins)
            self._take(roles, layer, role, origins)
            if isinstance(role, Columns):
                state[id(step.outputs[0])] = _Sharded(role.output, frozenset([id(layer)]))
        elif type(layer) is keras.layers.Dropout:
            each = next(iter(sharded.values()), None)
            if each is not None and layer.activity_regularizer is not None:
                raise _Struck(origins, f"its output goes into {call.name}, which adds to the loss")
            self._take(roles, layer, None if each is None else Dropped(each.axis), origins)
            if each is not None:
                state[id(step.outputs[0])] = each
        elif sharded:
            axes = self._passed(call, sharded, origins)
            for tensor, axis in zip(step.outputs, axes, strict=True):
                state[id(tensor)] = _Sharded(axis, origins)

    def _role(
        self, call: Call, sharded: dict[int, _Sharded], origins: frozenset[int]
    ) -> Columns | Row | None:
        layer, tensor = call.step.operation, call.step.input_tensors[0]
        rank = self.calls.sample[id(tensor)].shape.rank
        if sharded:
            axis = sharded[id(tensor)].axis
            kernel = row_axis(layer, axis, rank)
            if kernel is None or obstacle(layer):
                why = obstacle(layer) or "does not sum over what is sharded"
                raise _Struck(origins, f"its output goes into {call.name}: that {why}")
            return Row(kernel, axis)
        if id(layer) in self.struck:
            return None
        try:
            columns = columns_of(layer, rank)
            problem = obstacle(layer) or indivisible(
                "its number of outputs (heads, units)",
                layer.kernel.shape[columns.kernel],
                self.degree,
            )
            if problem is None and not self._is_large(layer):
                problem = "it is small"
            if problem is None and not self._by_shards(layer.activation, call, columns.output):
                problem = "its activation needs all of its output"
        except ValueError as error:
            problem = str(error)
        if problem is not None:
            self.struck[id(layer)] = problem
            return None
        return columns

    def _take(self, roles: Roles, layer: Any, role: Role | None, origins: frozenset[int]) -> None:
        """Note what a layer is, which has to be the same each time that it is called.

        Raises:
            _Struck: it was something else before.
        """
        before, others = self._taken.setdefault(id(layer), (role, origins))
        if before != role:
            raise _Struck(
                origins | others or frozenset([id(layer)]),
                f"{roles.names[id(layer)]} is called where it is sharded and where it is not",
            )
        if role is not None:
            roles.layers[id(layer)] = layer, role

    def _by_shards(self, function: Any, call: Call, axis: int) -> bool:
        """Whether an activation makes of a shard the shard of what it makes of the whole."""
        if function is None:
            return True
        whole = self.calls.sample[id(call.step.outputs[0])]
        made = function(whole)
        pairs = zip(self._shards(whole, axis), self._shards(made, axis), strict=True)
        return all(close(function(one), expected) for one, expected in pairs)

    def _shards(self, tensor: tf.Tensor, axis: int) -> list[tf.Tensor]:
        return list(tf.split(tensor, self.degree, axis))

    def _passed(
        self, call: Call, sharded: dict[int, _Sharded], origins: frozenset[int]
    ) -> list[int]:
        """The axes along which an operation's outputs are sharded.

        Raises:
            _Struck: it does not make shards of shards.
        """
        key = id(call.step), *((i, each.axis) for i, each in sorted(sharded.items()))
        if key not in self._tried:
            self._tried[key] = self._try(call, {i: each.axis for i, each in sharded.items()})
        found = self._tried[key]
        if isinstance(found, str):
            raise _Struck(origins, f"its output goes into {call.name}, {found}")
        return found

    def _try(self, call: Call, axes: dict[int, int]) -> list[int] | str:
        step, sample = call.step, self.calls.sample
        if getattr(step.operation, "variables", None):
            return "which has weights or a state of its own and can't be sharded"
        flat = keras.tree.flatten((step.arguments.args, step.arguments.kwargs))
        if any(isinstance(each, keras.Variable) for each in flat):
            return "which uses a weight that is not sharded"
        learning = [t for t in step.input_tensors if id(t) in self._learning]
        if any(id(t) not in axes for t in learning):
            return "beside something that is learned and not sharded"
        # A whole input has gradients of each shard, which nothing would add up; so above.
        made: list[list[Any]] = []
        try:
            for number in range(self.degree):
                own = dict(sample)
                for key, axis in axes.items():
                    own[key] = self._shards(sample[key], axis)[number]
                args, kwargs = step.arguments.fill_in(own)
                made.append(keras.tree.flatten(step.operation(*args, **kwargs)))
                if getattr(step.operation, "losses", None):
                    return "which adds to the loss"
        # Any error is an operation's way to say that it does not take a shard.
        except Exception as error:
            return f"which takes no shard ({type(error).__name__})"
        found = []
        for i, tensor in enumerate(step.outputs):
            along = self._axis(sample[id(tensor)], [each[i] for each in made])
            if along is None:
                return "which needs all of it"
            found.append(along)
        return found

    def _axis(self, whole: Any, shards: list[Any]) -> int | None:
        """The axis along which some tensors are the shards of another one."""
        for axis in range(whole.shape.rank):
            shape = [*whole.shape]
            if shape[axis] % self.degree:
                continue
            shape[axis] //= self.degree
            if any(each.shape != shape for each in shards):
                continue
            pairs = zip(shards, self._shards(whole, axis), strict=True)
            if all(close(mine, other) for mine, other in pairs):
                return axis
        return None

    def add_single_layers(self, roles: Roles) -> None:
        """Let large layers that are in no pair be sharded by themselves, and embeddings."""
        for call in self.calls.calls:
            layer = call.step.operation
            if id(layer) in roles.layers:
                continue
            if is_projection(layer):
                problem = self._single(layer, call, roles)
            elif is_embedding(layer):
                problem = obstacle(layer) or indivisible(
                    "its vocabulary", layer.input_dim, self.degree
                )
                if problem is None and not self._is_large(layer):
                    problem = "it is small"
                if problem is None:
                    roles.layers[id(layer)] = layer, Rows()
            else:
                continue
            if problem is not None:
                roles.reasons[id(layer)] = problem

    def _single(self, layer: Any, call: Call, roles: Roles) -> str | None:
        rank = self.calls.sample[id(call.step.input_tensors[0])].shape.rank
        try:
            columns = columns_of(layer, rank)
        except ValueError as error:
            return str(error)
        size = layer.kernel.shape[columns.kernel]
        problem = obstacle(layer) or indivisible(
            "its number of outputs (heads, units)", size, self.degree
        )
        if problem is None and not self._is_large(layer):
            problem = "it is small"
        if problem is None:
            roles.layers[id(layer)] = layer, Gathered(columns)
        return problem


def _learning(calls: Calls) -> set[int]:
    """The tensors through which gradients go: what is made of floating-point inputs or weights."""
    found = {id(t) for t in calls.inputs if tf.as_dtype(t.dtype).is_floating}
    for entry in calls.entries:
        if isinstance(entry, Renamed):
            for old, new in entry.pairs:
                if id(old) in found:
                    found.add(id(new))
            continue
        step = entry.step
        flat = keras.tree.flatten((step.arguments.args, step.arguments.kwargs))
        has_weights = bool(getattr(step.operation, "variables", None)) or any(
            isinstance(each, keras.Variable) for each in flat
        )
        if has_weights or any(id(t) in found for t in step.input_tensors):
            found.update(id(t) for t in step.outputs if tf.as_dtype(t.dtype).is_floating)
    return found
