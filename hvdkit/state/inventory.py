"""What a training consists of: one list of variables, each with its role.

Broadcast, the consistency check, the averages of statistics, checkpoints and elastic jobs read it,
and select by role and by the ranks that hold the same value. What differs between ranks by design
has no such ranks: variables that are registered as local, with their slots, or that are each rank's
own by the word of their layer (`hvdkit.state.own`); gradients that a rank has accumulated and not
yet reduced; the states of seed generators and of stateful RNNs; residuals; and what an exchange
lets differ, which it says itself (`tracked_of`).

| reader | takes |
|---|---|
| broadcast, an elastic job's new ranks | `taken_over`; seeds are derived from the sender's |
| consistency check | `agreeing`; at the end of epochs `averaged`, too |
| averages of statistics | `averaged` |
| checkpoints | all; what ranks have in common is written once |
| commits of an elastic job | all |
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import tensorflow as tf

from hvdkit.engine import ProcessSet
from hvdkit.exchange.tracked import Role, Tracked
from hvdkit.mesh.layout import layout_of
from hvdkit.mesh.variable import can_be_sent, is_seed_state, path_of, variable_key
from hvdkit.optimizers.composition import leaves, tracked_of
from hvdkit.optimizers.mixins import Distributed
from hvdkit.state.groups import alike, ranks_of_optimizer
from hvdkit.state.own import own_variables, recurrent_states, updates_itself
from hvdkit.state.reachable import FoundOptimizer, leading, optimizers_of


def inventory(model: Any, optimizer: Any = None, *, local: Collection[int] = ()) -> list[Tracked]:
    """All variables of a training, each once: those of the model first, as Keras orders them.

    Args:
        model: a model; an optimizer's variables count once it is built.
        optimizer: an optimizer, or a list, tuple or dictionary of them, besides those that the
            model holds; or None.
        local: keys (`variable_key`) of more variables that are each rank's own.
    """
    return inventory_of(model, optimizers_of(model, optimizer), local)


def inventory_of(
    model: Any, optimizers: Sequence[FoundOptimizer], local: Collection[int] = ()
) -> list[Tracked]:
    """`inventory` with some of the optimizers only.

    Args:
        model: see `inventory`.
        optimizers: those that count.
        local: see `inventory`.
    """
    rows = [
        *_of_model(model, optimizers, local),
        *(
            Tracked(state, Role.RECURRENT, path_of(state), layout_of(state))
            for state in recurrent_states(model)
        ),
    ]
    weights = [row for row in rows if row.role in (Role.WEIGHT, Role.LOCAL)]
    replicas = _replicas(optimizers)
    for one in optimizers:
        rows += _of_optimizer(one.optimizer, weights, replicas)
    kept = {variable_key(row.variable): row for row in _of_exchanges(optimizers)}
    found: dict[int, Tracked] = {}
    for row in [*rows, *kept.values()]:
        key = variable_key(row.variable)
        found.setdefault(key, kept.get(key, row))
    return list(found.values())


def taken_over(rows: Iterable[Tracked]) -> list[Tracked]:
    """What a rank takes over from the one that it starts from.

    Statistics and accumulated gradients, too, though the ranks then go on each with its own: with
    those of the sender a rank that joins between two updates is as far as the others. And weights
    that an exchange lets differ between two meetings. Not shards, of which each rank has others.
    """
    passing = (Role.WEIGHT, Role.STATISTIC, Role.ACCUMULATOR)
    return [
        row
        for row in rows
        if row.same_on is not None or (row.role in passing and row.shard is None)
    ]


def agreeing(rows: Iterable[Tracked]) -> list[Tracked]:
    """What is the same on all ranks after every step, as far as it holds numbers."""
    return [
        row
        for row in rows
        if row.same_on is not None and row.role is not Role.STATISTIC and can_be_sent(row.variable)
    ]


def averaged(rows: Iterable[Tracked]) -> list[Tracked]:
    """The statistics of which the ranks of a distributed optimizer take the average."""
    return [row for row in rows if row.role is Role.STATISTIC and row.same_on is not None]


def _of_model(
    model: Any, optimizers: Sequence[FoundOptimizer], local: Collection[int]
) -> Iterator[Tracked]:
    own = {variable_key(variable) for variable in own_variables(model)}.union(local)
    own.update(variable_key(v) for v in model.variables if _is_local(optimizers, v))
    statistics = _statistics(model, own)
    averaging = ranks_of_optimizer(leading(optimizers))
    replicas = _replicas(optimizers)
    for variable in model.variables:
        key = variable_key(variable)
        role, same_on = Role.WEIGHT, replicas
        if is_seed_state(variable):
            role, same_on = Role.SEED, None
        elif key in own:
            role, same_on = Role.LOCAL, None
        elif key in statistics:
            role, same_on = Role.STATISTIC, averaging if statistics[key] else None
        yield Tracked(variable, role, path_of(variable), layout_of(variable), same_on)


def _of_optimizer(
    optimizer: Any, weights: Sequence[Tracked], replicas: ProcessSet
) -> Iterator[Tracked]:
    accumulators = {
        variable_key(variable)
        for leaf in leaves(optimizer)
        for variable in getattr(leaf, "_accumulated_gradients", None) or []
    }
    of_local = _slots_of_local(weights)
    for variable in optimizer.variables:
        key = variable_key(variable)
        role, same_on = Role.SLOT, replicas
        if key in accumulators:
            role, same_on = Role.ACCUMULATOR, None
        elif of_local(variable.name):
            same_on = None
        yield Tracked(variable, role, path_of(variable), layout_of(variable), same_on)


def _of_exchanges(optimizers: Sequence[FoundOptimizer]) -> Iterator[Tracked]:
    """What exchanges say of their own variables, and of weights and slots that they let differ."""
    for one in optimizers:
        for row in tracked_of(one.optimizer):
            yield replace(row, layout=row.layout or layout_of(row.variable))


def _replicas(optimizers: Sequence[FoundOptimizer]) -> ProcessSet:
    """The ranks that hold the same weights, or the same shards of them."""
    return alike(leading(optimizers))[-1].ranks


def _is_local(optimizers: Iterable[FoundOptimizer], variable: Any) -> bool:
    """Whether a variable was registered with `register_local_var`, with any of some optimizers."""
    return any(
        leaf.is_local_var(variable)
        for one in optimizers
        for leaf in leaves(one.optimizer)
        if isinstance(leaf, Distributed)
    )


def _statistics(model: Any, own: Collection[int]) -> dict[int, bool]:
    """Keys of weights that layers update by themselves, and whether ranks average them.

    Whole numbers (counters) are not averaged, and neither are those beside weights of which each
    rank trains its own.
    """
    found: dict[int, bool] = {}
    for layer in model._flatten_layers():
        if not updates_itself(layer):
            continue
        trained = [variable_key(variable) for variable in layer._trainable_variables]
        beside_local = bool(trained) and all(key in own for key in trained)
        for variable in layer._non_trainable_variables:
            key, floating = variable_key(variable), tf.as_dtype(variable.dtype).is_floating
            found[key] = found.get(key, False) or (floating and not beside_local)
    return found


def _slots_of_local(weights: Sequence[Tracked]) -> Callable[[str], bool]:
    """Tells by the name of an optimizer's variable whether it belongs to a local weight."""
    # How Keras begins the names of the optimizer's variables that belong to a weight.
    prefixes = [(f"{row.path.replace('/', '_')}_", row.role is Role.LOCAL) for row in weights]
    if not any(is_local for _, is_local in prefixes):
        return lambda name: False

    def of_local(name: str) -> bool:
        matching = [
            (len(start), is_local) for start, is_local in prefixes if name.startswith(start)
        ]
        return max(matching, default=(0, False))[1]

    return of_local
