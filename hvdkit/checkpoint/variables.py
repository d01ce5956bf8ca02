"""The variables of a training run: which are the same on all ranks, and which are a rank's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.descriptions import dtype_and_shape
from hvdkit.mesh.layout import is_sharded, layout_of
from hvdkit.optimizers.composition import leaves
from hvdkit.state.broadcast import can_be_sent
from hvdkit.state.inventory import is_local, is_seed_state
from hvdkit.state.own import own_variables as weights_by_rank
from hvdkit.state.own import recurrent_states
from hvdkit.state.reachable import COMPILED, FoundOptimizer

Groups = dict[str, list[Any]]

# Under this name a file holds the names of its variables, by group.
PATHS = "paths"
RECURRENT = "recurrent"


def shared_variables(model: Any, optimizers: Sequence[FoundOptimizer]) -> Groups:
    """What is equal on all ranks, by group: rank 0 writes it.

    Args:
        model: a built model.
        optimizers: its optimizers.
    """
    local = _local_keys(model, optimizers)
    groups = {"trainable": [v for v in model.trainable_variables if _key(v) not in local]}
    for one in [] if local else optimizers:
        own = {_key(v) for v in _accumulators(one.optimizer)}
        groups[group_of("optimizer", one)] = [
            v for v in one.optimizer.variables if _key(v) not in own
        ]
    return groups


def own_variables(model: Any, optimizers: Sequence[FoundOptimizer]) -> Groups:
    """What each rank has for itself, by group: each rank writes its own.

    Moving statistics and weights that are each rank's own, the states of seed generators and of
    stateful RNNs,
    gradients that are accumulated before they are reduced, and variables registered with
    `register_local_var`, with the optimizers'.

    Args:
        model: a built model.
        optimizers: its optimizers.
    """
    local = _local_keys(model, optimizers)
    state = [v for v in model.non_trainable_variables if can_be_sent(v)]
    groups = {
        "local": [v for v in model.trainable_variables if _key(v) in local],
        "seeds": [v for v in state if is_seed_state(v)],
        "state": [v for v in state if not is_seed_state(v)],
    }
    if states := recurrent_states(model):
        groups[RECURRENT] = states
    for one in optimizers:
        accumulators = _accumulators(one.optimizer)
        own = {_key(v) for v in accumulators}
        groups[group_of("accumulators", one)] = accumulators
        groups[group_of("local_optimizer", one)] = [
            v for v in one.optimizer.variables if local and _key(v) not in own
        ]
    return groups


def group_of(kind: str, one: FoundOptimizer) -> str:
    """The group of an optimizer's variables; `model.optimizer`'s have the plain name."""
    # A group is what stands before the first slash in the name of an array.
    return kind if one.name == COMPILED else f"{kind} of {one.name.replace('/', '|')}"


def kept_by_rank(model: Any, groups: Groups) -> list[int]:
    """The places in the group "state" of weights of which each rank keeps its own values."""
    kept = {_key(variable) for variable in weights_by_rank(model)}
    return [place for place, v in enumerate(groups["state"]) if _key(v) in kept]


def copies(groups: Groups) -> dict[str, np.ndarray]:
    """The values of variables, in memory of their own, by group and position."""
    # On a CPU the array of a variable may be the variable's memory itself.
    return {
        f"{group}/{position}": np.array(tf.convert_to_tensor(_raw(variable)).numpy())
        for group, variables in groups.items()
        for position, variable in enumerate(variables)
    }


def paths(groups: Groups) -> dict[str, list[str]]:
    """The names of variables, for messages."""
    return {group: [path_of(v) for v in variables] for group, variables in groups.items()}


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
    for group, variables in groups.items():
        stored = names.get(group, [])
        if len(stored) != len(variables):
            return (
                f"the checkpoint has {len(stored)} variables in the group {group!r}, and this "
                f"model and optimizer have {len(variables)}"
            )
        for position, variable in enumerate(variables):
            array = arrays[f"{group}/{position}"]
            expected = (keras.backend.standardize_dtype(variable.dtype), tuple(variable.shape))
            if (array.dtype.name, array.shape) != expected:
                found = dtype_and_shape(array.dtype, array.shape)
                return (
                    f"the checkpoint's {stored[position]} is {found}, and this model's "
                    f"{path_of(variable)} is {dtype_and_shape(*expected)}"
                )
    return None


def assign(groups: Groups, arrays: dict[str, np.ndarray]) -> None:
    """Set variables to stored values."""
    for group, variables in groups.items():
        for position, variable in enumerate(variables):
            variable.assign(tf.constant(arrays[f"{group}/{position}"]))


def _accumulators(optimizer: Any) -> list[Any]:
    found: list[Any] = []
    for leaf in leaves(optimizer):
        found += getattr(leaf, "_accumulated_gradients", [])
    return found


def _local_keys(model: Any, optimizers: Sequence[FoundOptimizer]) -> set[int]:
    found = [one.optimizer for one in optimizers]
    return {_key(variable) for variable in model.trainable_variables if is_local(found, variable)}


def sharded_dimension(variable: Any) -> int | None:
    """The dimension along which a variable is sharded over tensor ranks; None if it is not."""
    layout = layout_of(variable)
    return layout.shards.get("tensor") if layout is not None and is_sharded(variable) else None


def _key(variable: Any) -> int:
    return id(_raw(variable))


def _raw(variable: Any) -> Any:
    return variable.value if isinstance(variable, keras.Variable) else variable


def path_of(variable: Any) -> str:
    """A variable's name."""
    return str(getattr(variable, "path", variable.name))
