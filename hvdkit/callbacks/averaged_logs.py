"""Logs that are the same on every rank."""

from __future__ import annotations

from typing import Any

from hvdkit.callbacks.metric_average import LogsOfAllRanks
from hvdkit.engine import topology


class AgreedLogs(LogsOfAllRanks):
    """Mixin for Keras callbacks that decide by the logs of an epoch: all ranks decide alike.

    Where the logs differ between ranks, those of all ranks take their place first, as after
    `MetricAverageCallback`. Only rank 0 prints.
    """

    only_if_different = True
    verbose: int

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Leave the talking to rank 0."""
        if topology.rank() != 0:
            self.verbose = 0
        super().on_train_begin(logs)
