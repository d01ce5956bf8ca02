"""The variables of a training run: which are the same on all ranks, and which are a rank's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.descriptions import dtype_and_shape
from hvdkit.exchange.tracked import Role, Tracked
from hvdkit.mesh.variable import can_be_sent, raw, variable_key
from hvdkit.optimizers.composition import tracked_of
from hvdkit.state.inventory import inventory_of
from hvdkit.state.reachable import COMPILED, FoundOptimizer

Groups = dict[str, list[Tracked]]

# Under these names a file holds, by group, the names of its variables, and along which of their
# dimensions they are sharded over tensor ranks.
PATHS = "paths"
AXES = "axes"

TRAINABLE, LOCAL, SEEDS, STATE = "trainable", "local", "seeds", "state"
RECURRENT = "recurrent"
OPTIMIZER, LOCAL_OPTIMIZER, ACCUMULATORS = "optimizer", "local_optimizer", "accumulators"
# What an exchange keeps: the same on all ranks, each rank's own, and what is not sent yet; and each
# rank's values of weights that it lets differ, and of their slots.
EXCHANGE, OWN_EXCHANGE, RESIDUALS = "exchange", "own_exchange", "residuals"
DIFFERING, DIFFERING_SLOTS = "differing", "differing_slots"

# A checkpoint may lack these: it was written before they were saved, or with another exchange.
_OPTIONAL = (RECURRENT, RESIDUALS, DIFFERING)


def groups_of(model: Any, optimizers: Sequence[FoundOptimizer]) -> tuple[Groups, Groups]:
    """The variables of a training, by group.

    Where weights are local, so are all variables of the optimizers. Weights that an exchange lets
    differ are in both: where a checkpoint does not hold each rank's, all have rank 0's.

    Args:
        model: a built model.
        optimizers: its optimizers.

    Returns:
        What is equal on all ranks, which rank 0 writes; and what each rank has for itself, which
        each writes: statistics and frozen weights, seeds, the states of stateful RNNs, gradients
        that are accumulated before they are reduced, what an exchange keeps, and what is local.
        What the replicas hold shards of is in the group in which it would be unsharded.
    """
    rows = inventory_of(model, optimizers)
    by_key = {variable_key(row.variable): row for row in rows}
    trained = _rows(by_key, model.trainable_variables)
    others = _rows(by_key, model.non_trainable_variables)
    local = [row for row in trained if row.role is Role.LOCAL]
    shared = {TRAINABLE: [row for row in trained if row.role is not Role.LOCAL]}
    own = {
        LOCAL: local,
        SEEDS: [row for row in others if row.role is Role.SEED],
        STATE: [r for r in others if r.role is not Role.SEED and can_be_sent(r.variable)],
    }
    if states := [row for row in rows if row.role is Role.RECURRENT]:
        own[RECURRENT] = states
    if differing := [r for r in trained if r.role is Role.WEIGHT and r.same_on is None]:
        own[DIFFERING] = differing
    for one in optimizers:
        of_all, of_rank = _of_optimizer(by_key, one, has_local=bool(local))
        shared |= of_all
        own |= of_rank
    return shared, own


def _of_optimizer(
    by_key: dict[int, Tracked], one: FoundOptimizer, *, has_local: bool
) -> tuple[Groups, Groups]:
    keeps = _rows(by_key, one.optimizer.variables)
    exchanged = [row for row in _of_exchange(by_key, one.optimizer) if row.shard is None]
    slots = [row for row in keeps if row.role is Role.SLOT and row not in exchanged]
    rest = [row for row in exchanged if row.role is not Role.RESIDUAL]
    shared = {} if has_local else {OPTIMIZER: slots}
    own = {
        ACCUMULATORS: [row for row in keeps if row.role is Role.ACCUMULATOR],
        LOCAL_OPTIMIZER: slots if has_local else [],
    }
    some_shared = {EXCHANGE: [row for row in rest if row.same_on is not None]}
    some_own = {
        RESIDUALS: [row for row in exchanged if row.role is Role.RESIDUAL],
        OWN_EXCHANGE: [r for r in rest if r.same_on is None and not r.resumes_from_mean],
        DIFFERING_SLOTS: [r for r in rest if r.same_on is None and r.resumes_from_mean],
    }
    shared.update({kind: rows for kind, rows in some_shared.items() if rows})
    own.update({kind: rows for kind, rows in some_own.items() if rows})
    return _named(shared, one), _named(own, one)


def _named(groups: Groups, one: FoundOptimizer) -> Groups:
    return {group_of(kind, one): rows for kind, rows in groups.items()}


def group_of(kind: str, one: FoundOptimizer) -> str:
    """The group of an optimizer's variables; `model.optimizer`'s have the plain name."""
    # A group is what stands before the first slash in the name of an array.
    return kind if one.name == COMPILED else f"{kind} of {one.name.replace('/', '|')}"


def kind_of(group: str) -> str:
    """What kind of variables a group holds, whosever they are."""
    return group.split(" of ")[0]


def drop_missing(groups: Groups, names: dict[str, list[str]]) -> None:
    """Leave out groups that a checkpoint may lack, and does.

    Args:
        groups: the variables of this run.
        names: the stored `paths`.
    """
    for group in [one for one in groups if kind_of(one) in _OPTIONAL and one not in names]:
        del groups[group]


def kept_by_rank(groups: Groups) -> list[int]:
    """The positions in the group "state" of weights of which each rank keeps its own values."""
    return [position for position, row in enumerate(groups[STATE]) if row.role is Role.LOCAL]


def copies(groups: Groups) -> dict[str, np.ndarray]:
    """The values of variables, in memory of their own, by group and position."""
    # On a CPU the array of a variable may be the variable's memory itself.
    return {
        f"{group}/{position}": np.array(tf.convert_to_tensor(raw(row.variable)).numpy())
        for group, rows in groups.items()
        for position, row in enumerate(rows)
    }


def paths(groups: Groups) -> dict[str, list[str]]:
    """The names of variables, for messages."""
    return {group: [row.path for row in rows] for group, rows in groups.items()}


def misfit(
    groups: Groups,
    arrays: dict[str, np.ndarray],
    names: dict[str, list[str]],
    source: str,
    more: str | None = None,
) -> str | None:
    """Say where a checkpoint does not fit variables; None if it does.

    Args:
        groups: the variables of this run.
        arrays: what is stored, by group and position.
        names: the stored `paths`.
        source: the checkpoint, for the message.
        more: what else does not fit, if the variables do.
    """
    where = _first_misfit(groups, arrays, names) or more
    if where is None:
        return None
    return (
        f"{source} belongs to another model or optimizer: {where}. Name another folder, or go "
        "back to the model that it was written with."
    )


def _first_misfit(
    groups: Groups, arrays: dict[str, np.ndarray], names: dict[str, list[str]]
) -> str | None:
    for group, rows in groups.items():
        stored = names.get(group, [])
        if len(stored) != len(rows):
            return (
                f"the checkpoint has {len(stored)} variables in the group {group!r}, and this "
                f"model and optimizer have {len(rows)}"
            )
        for position, row in enumerate(rows):
            array, dtype = arrays[f"{group}/{position}"], row.variable.dtype
            shapes = _shapes_for(row)
            expected = keras.backend.standardize_dtype(dtype)
            if array.dtype.name != expected or (shapes and array.shape not in shapes):
                found = dtype_and_shape(array.dtype, array.shape)
                shape = shapes[-1] if shapes else array.shape
                return (
                    f"the checkpoint's {stored[position]} is {found}, and this model's "
                    f"{row.path} is {dtype_and_shape(expected, shape)}"
                )
    return None


def _shapes_for(row: Tracked) -> list[tuple[int, ...]]:
    """The shapes that an array for a variable may have; none where any will do."""
    own = tuple(row.variable.shape)
    if row.shard is None:
        return [own]
    return [own, row.shard.shape] if row.shard.size else []


def assign(groups: Groups, arrays: dict[str, np.ndarray]) -> None:
    """Set variables to stored values."""
    for group, rows in groups.items():
        for position, row in enumerate(rows):
            array = arrays[f"{group}/{position}"]
            if row.shard is not None and array.shape != tuple(row.variable.shape):
                array = row.shard.of(array).reshape(row.variable.shape)
            row.variable.assign(tf.constant(array))


def sharded_dimension(row: Tracked) -> int | None:
    """The dimension along which a variable is sharded over tensor ranks; None if it is not."""
    return row.layout.shards.get("tensor") if row.layout is not None and row.is_sharded else None


def _rows(by_key: dict[int, Tracked], variables: Sequence[Any]) -> list[Tracked]:
    return [by_key[variable_key(variable)] for variable in variables]


def _of_exchange(by_key: dict[int, Tracked], optimizer: Any) -> list[Tracked]:
    """What the exchange of an optimizer keeps, and slots that it lets differ."""
    rows = _rows(by_key, [row.variable for row in tracked_of(optimizer)])
    return [row for row in rows if row.role is not Role.WEIGHT]
