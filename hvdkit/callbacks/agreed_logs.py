"""Logs that are the same on every rank."""

from __future__ import annotations

from typing import Any

import keras

from hvdkit.engine import topology
from hvdkit.metrics import average_over_ranks


class AgreedLogs(keras.callbacks.Callback):
    """Mixin for Keras callbacks that decide by the logs of an epoch: all ranks decide alike.

    The logs are averaged over ranks first, weighted by rows; logs that are equal already, as
    after `MetricAverageCallback`, stay as they are. Only rank 0 prints.
    """

    verbose: int

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Leave the talking to rank 0."""
        if topology.rank() != 0:
            self.verbose = 0
        super().on_train_begin(logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Decide by the logs of all ranks."""
        if logs and topology.size() > 1:
            logs.update(average_over_ranks(self.model, logs))
        super().on_epoch_end(epoch, logs)
