"""Every rank starts from the same variables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.descriptions import dtype_and_shape
from hvdkit.engine import global_process_set, logger, require_same, topology
from hvdkit.exchange.buckets import variable_key
from hvdkit.mesh.mesh import current_mesh, replica_of
from hvdkit.randomness import rank_seed
from hvdkit.state import outside_variables
from hvdkit.state.broadcast import broadcast_variables, can_be_sent
from hvdkit.state.building import build_alike, build_for_fit
from hvdkit.state.inventory import Alike, is_local, is_seed_state
from hvdkit.state.own import own_variables
from hvdkit.state.reachable import has_been_traced, has_variables, optimizers_of


class BroadcastGlobalVariablesCallback(keras.callbacks.Callback):
    """Send the variables of one rank to all others before the first batch.

    Sent are the model's trainable and non-trainable variables, those of all optimizers that it
    holds, and what its layers keep outside of variables: vocabularies of lookup layers, boundaries
    of bins, what a layer gives to `save_own_variables` and `save_assets`. The states of seed
    generators are not: each rank derives its own from the root's and its rank, so that dropout
    differs between ranks; nor are weights that are each rank's own (docs/agreement.md). Variables
    that hold no numbers are left out and named on the root.

    A model or an optimizer that can't be built before its first step, as some of those with a
    `train_step` of their own, is sent after it.

    Args:
        root_rank: the rank that sends.
        device: device for the broadcast; "" for the variables' own.
        local_variables: variables to leave out. Those registered with
            `DistributedOptimizer.register_local_var` are left out as well.

    Raises:
        RankMismatchError: on every rank, when the ranks have different models.
    """

    def __init__(self, root_rank: int, device: str = "", local_variables: Any = None) -> None:
        super().__init__()
        self.root_rank = root_rank
        self.device = device
        self.broadcast_done = False
        self.local_keys: set[int] = set()
        if local_variables is None:
            local_variables = []
        elif isinstance(local_variables, (keras.Variable, tf.Variable)):
            local_variables = [local_variables]
        for variable in local_variables:
            self.register_local_var(variable)

    def register_local_var(self, var: Any) -> None:
        """Leave a variable out of the broadcast.

        Raises:
            ValueError: `var` is not a variable.
        """
        if not isinstance(var, (keras.Variable, tf.Variable)):
            raise ValueError(f"local variables are keras.Variable or tf.Variable, not {var!r}.")
        self.local_keys.add(variable_key(var))

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Broadcast, if the model has its variables."""
        self.broadcast_done = False
        if has_variables(self.model):
            self._broadcast()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Broadcast after the first batch, if the model could not be built before it."""
        if not self.broadcast_done:
            has_been_traced(self.model)
            self._broadcast()

    def _broadcast(self) -> None:
        self.broadcast_done = True
        if topology.size() == 1:
            return
        found = optimizers_of(self.model)
        build_for_fit(self.model, found)
        for group, root in _senders(self.root_rank):
            build_alike(self.model, found, root, group.ranks)
        optimizers = [one.optimizer for one in found]
        state = list(self.model.variables)
        for optimizer in optimizers:
            state += optimizer.variables
        state = list({variable_key(variable): variable for variable in state}.values())
        seeds = [variable for variable in state if is_seed_state(variable)]
        own = {variable_key(variable) for variable in own_variables(self.model)} | self.local_keys
        sent = [
            v
            for v in state
            if not is_seed_state(v) and variable_key(v) not in own and not is_local(optimizers, v)
        ]
        left_out = [v for v in sent if not can_be_sent(v)]
        sent = [v for v in sent if can_be_sent(v)]
        changed = False
        with tf.device(self.device or None):
            for group, root in _senders(self.root_rank):
                alike = group.among(sent)
                kinds = [dtype_and_shape(v.dtype, v.shape) for v in alike]
                require_same(_what_is_compared(self.model), kinds, group.ranks)
                broadcast_variables(alike, root, group.ranks)
                changed |= outside_variables.send(self.model, root, group.ranks)
        if changed:
            outside_variables.remake_functions(self.model)
        derive_seeds(seeds, self.root_rank)
        self._say_left_out([getattr(v, "path", v.name) for v in left_out])

    def _say_left_out(self, names: Sequence[str]) -> None:
        if names and topology.rank() == self.root_rank:
            logger.warning(
                "hvdkit: not broadcast: %s. Make sure that every rank fills them alike.",
                ", ".join(names),
            )


def _what_is_compared(model: Any) -> str:
    """What to call the variables; a vocabulary may decide their shapes."""
    what = "the variables of model and optimizer"
    words = [layer.name for layer in outside_variables.keepers(model)]
    if not words:
        return what
    return f"{what} (whose shapes may follow what {', '.join(words[:3])} were adapted to)"


def _senders(root_rank: int) -> Iterator[tuple[Alike, int]]:
    """The groups of ranks that hold the same variables, and who sends in each of them.

    With a mesh the values go from the root's place in each tensor group to the rest of it, and
    then from the root's replica to the others.
    """
    mesh = current_mesh()
    if mesh is None:
        yield Alike(global_process_set), root_rank
        return
    replica, _, part = mesh.indices_of(root_rank)
    if mesh.tensor > 1:
        sender = mesh.rank_at(mesh.data_index, mesh.pipeline_index, part)
        yield Alike(mesh.tensor_set, whole_only=True), sender
    if mesh.data > 1:
        sender = mesh.rank_at(replica, mesh.pipeline_index, mesh.tensor_index)
        yield Alike(mesh.data_set), sender


def derive_seeds(states: list[Any], root_rank: int) -> None:
    """Give each replica of the model its own seeds: from the root's, and its number.

    Args:
        states: the states of seed generators (uint32, [seed, counter]), in the same order on all
            ranks. Those of the root's replica stay as they are.
        root_rank: the rank whose seeds count.
    """
    if not states:
        return
    for group, root in _senders(root_rank):
        require_same("the seed generators of the model", [f"{len(states)} of them"], group.ranks)
        broadcast_variables(states, root, group.ranks)
    replica = replica_of(topology.rank())
    if replica == replica_of(root_rank):
        return
    for state in states:
        seed, counter = state.numpy().tolist()
        state.assign(np.array([rank_seed(seed, replica), counter], np.uint32))
