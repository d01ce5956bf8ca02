"""Every rank starts from the same variables."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from hvdkit.engine import topology
from hvdkit.mesh.variable import variable_key
from hvdkit.state.building import build_for_fit
from hvdkit.state.reachable import has_been_traced, has_variables, optimizers_of
from hvdkit.state.sending import send_training


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
        build_for_fit(self.model, optimizers_of(self.model))
        send_training(self.model, self.root_rank, local=self.local_keys, device=self.device)
