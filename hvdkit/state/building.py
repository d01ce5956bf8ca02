"""Optimizers are built with the variables that they train, alike on all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hvdkit.engine import ProcessSet, allgather_object, global_process_set, topology
from hvdkit.mesh.variable import variable_key
from hvdkit.optimizers.composition import leaves
from hvdkit.optimizers.mixins import Distributed
from hvdkit.state.reachable import COMPILED, FoundOptimizer, steps_by_itself

BuiltWith = dict[str, list[int] | None]
"""For each optimizer that is built, by name, the positions of its variables in `model.variables`;
None where it trains others."""


def build_for_fit(model: Any, found: Sequence[FoundOptimizer]) -> None:
    """Build the optimizer that trains all of a model.

    Of several nobody knows what they train before they are used: those of a GAN would get slots
    for all of its variables.

    Args:
        model: a model that has its variables.
        found: its optimizers.
    """
    for one in found:
        if one.name != COMPILED or one.optimizer.built or not model.trainable_variables:
            continue
        if not steps_by_itself(model) or (len(found) == 1 and not _averages(one.optimizer)):
            one.optimizer.build(model.trainable_variables)


def _averages(optimizer: Any) -> bool:
    """Whether it averages weights: that it does for all variables that it was built with."""
    return any(leaf.use_ema for leaf in leaves(optimizer))


def built_with(model: Any, found: Sequence[FoundOptimizer]) -> BuiltWith:
    """What optimizers were built with."""
    positions = {variable_key(variable): i for i, variable in enumerate(model.variables)}
    known: BuiltWith = {}
    for one in found:
        if one.optimizer.built:
            trained = [positions.get(variable_key(v)) for v in one.optimizer._trainable_variables]
            known[one.name] = None if None in trained else [p for p in trained if p is not None]
    return known


def build_as(model: Any, found: Sequence[FoundOptimizer], known: BuiltWith) -> list[FoundOptimizer]:
    """Build optimizers that are not built yet as others were.

    Args:
        model: a model with the same variables.
        found: its optimizers.
        known: what the others were built with.

    Returns:
        Those that can't be: they train variables that are not the model's.
    """
    variables = model.variables
    foreign = []
    for one in found:
        if one.optimizer.built or one.name not in known:
            continue
        positions = known[one.name]
        if positions is None or max(positions, default=0) >= len(variables):
            foreign.append(one)
        else:
            one.optimizer.build([variables[position] for position in positions])
    return foreign


def build_alike(
    model: Any,
    found: Sequence[FoundOptimizer],
    first: int,
    process_set: ProcessSet = global_process_set,
) -> None:
    """Build on all ranks what is built on one of them: a rank may have loaded its model.

    Args:
        model: a model with the same variables on all ranks.
        found: its optimizers.
        first: the (global) rank that counts where several have built an optimizer.
        process_set: the ranks that take part.
    """
    everyone = allgather_object(
        built_with(model, found), name="hvdkit.built_with", process_set=process_set
    )
    known: BuiltWith = dict(everyone[topology.process_set_ranks(process_set).index(first)])
    for other in everyone:
        known = {**other, **known}
    build_as(model, found, known)


def start_anew(optimizer: Any) -> None:
    """Set the variables of a built optimizer to what they were when it was built."""
    kind = type(optimizer)
    if isinstance(optimizer, Distributed):
        kind = kind.__bases__[-1]  # Keras's class, behind the mixins
    fresh = kind.from_config(optimizer.get_config())
    fresh.build(optimizer._trainable_variables)
    for variable, first in zip(optimizer.variables, fresh.variables, strict=True):
        variable.assign(first.value)
