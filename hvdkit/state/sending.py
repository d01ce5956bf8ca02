"""All ranks get the training of one: its variables, what its layers keep, and seeds from its."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.engine import allgather_object, logger, require_same, topology
from hvdkit.exchange.tracked import Role, Tracked
from hvdkit.mesh.mesh import replica_of
from hvdkit.mesh.variable import can_be_sent, described
from hvdkit.optimizers.composition import leaves
from hvdkit.optimizers.owned_update import OwnedUpdate
from hvdkit.randomness import rank_seed
from hvdkit.state import outside_variables
from hvdkit.state.broadcast import broadcast_variables
from hvdkit.state.building import build_alike
from hvdkit.state.groups import senders
from hvdkit.state.inventory import inventory_of, taken_over
from hvdkit.state.reachable import optimizers_of


def send_training(
    model: Any,
    root_rank: int,
    optimizer: Any = None,
    *,
    local: Collection[int] = (),
    device: str = "",
) -> None:
    """Give all ranks the training of one rank. All ranks call it.

    Optimizers that a rank has not built yet are built as on the others.

    Args:
        model: a model that has its variables.
        root_rank: the rank that sends.
        optimizer: an optimizer, or a list, tuple or dictionary of them, besides those that the
            model holds; or None.
        local: keys (`variable_key`) of variables to leave out.
        device: device for the broadcast; "" for the variables' own.

    Raises:
        RankMismatchError: on every rank, when the ranks have different models.
        ValueError: on every rank, when slots are sharded over ranks that have made other numbers
            of updates.
    """
    found = optimizers_of(model, optimizer)
    for group, root in senders(root_rank):
        build_alike(model, found, root, group.ranks)
    rows = inventory_of(model, found, local)
    sharded = [
        leaf
        for one in found
        for leaf in leaves(one.optimizer)
        if isinstance(leaf, OwnedUpdate) and leaf.has_shards
    ]
    _require_same_updates(sharded)
    with tf.device(device or None):
        send_variables(rows, root_rank, _what_is_compared(model))
        sent = [
            outside_variables.send(model, root, group.ranks) for group, root in senders(root_rank)
        ]
    if any(sent):
        outside_variables.remake_functions(model)
    for leaf in sharded:
        if not _steps(leaf):
            leaf.start_shards()
    _derive_seeds([row for row in rows if row.role is Role.SEED], root_rank)


def _require_same_updates(sharded: Sequence[OwnedUpdate]) -> None:
    """Refuse to send a training that has begun on some ranks, and of which each has a share only.

    Args:
        sharded: the optimizers with slots of which no rank has all; as many on all ranks.
    """
    if not sharded:
        return
    everyone = allgather_object(list(map(_steps, sharded)), name="hvdkit.updates")
    other = next((rank for rank, steps in enumerate(everyone) if steps != everyone[0]), None)
    if other is not None:
        raise ValueError(
            f"the optimizer has made {everyone[0]} steps on rank 0 and {everyone[other]} on rank "
            f"{other}, and its slots are sharded, so no rank can send them to the others: restore "
            "it on all ranks, with hvd.callbacks.BackupAndRestore or hvd.checkpoint.restore."
        )


def _steps(optimizer: Any) -> int:
    return int(keras.ops.convert_to_numpy(optimizer._iterations))


def send_variables(rows: Sequence[Tracked], root_rank: int, what: str) -> None:
    """Give all ranks those variables of one rank that a rank takes over. All ranks call it.

    Those that hold no numbers are left out, and named on the root.

    Args:
        rows: the variables, in the same order on all ranks.
        root_rank: the rank that sends.
        what: what to call them.

    Raises:
        RankMismatchError: on every rank, when the ranks have other variables.
    """
    taken = taken_over(rows)
    sent = [row for row in taken if can_be_sent(row.variable)]
    for group, root in senders(root_rank):
        variables = [row.variable for row in group.among(sent)]
        require_same(what, list(map(described, variables)), group.ranks)
        broadcast_variables(variables, root, group.ranks)
    names = [row.path for row in taken if not can_be_sent(row.variable)]
    if names and topology.rank() == root_rank:
        logger.warning(
            "hvdkit: not broadcast: %s. Make sure that every rank fills them alike.",
            ", ".join(names),
        )


def _derive_seeds(rows: Sequence[Tracked], root_rank: int) -> None:
    """Give each replica of the model its own seeds: from the root's, and its number.

    Args:
        rows: the states of seed generators (uint32, [seed, counter]), in the same order on all
            ranks. Those of the root's replica stay as they are.
        root_rank: the rank whose seeds count.
    """
    if not rows:
        return
    states = [row.variable for row in rows]
    for group, root in senders(root_rank):
        require_same("the seed generators of the model", [f"{len(states)} of them"], group.ranks)
        broadcast_variables(states, root, group.ranks)
    replica = replica_of(topology.rank())
    if replica == replica_of(root_rank):
        return
    for state in states:
        seed, counter = state.numpy().tolist()
        state.assign(np.array([rank_seed(seed, replica), counter], np.uint32))


def _what_is_compared(model: Any) -> str:
    """What to call the variables; a vocabulary may decide their shapes."""
    what = "the variables of model and optimizer"
    words = [layer.name for layer in outside_variables.keepers(model)]
    if not words:
        return what
    return f"{what} (whose shapes may follow what {', '.join(words[:3])} were adapted to)"
