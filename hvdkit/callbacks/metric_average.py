"""Metrics of all ranks instead of one."""

from __future__ import annotations

from typing import Any

import keras

from hvdkit.engine import topology
from hvdkit.metrics import average_over_ranks, metrics_over_ranks, rows_seen


class MetricAverageCallback(keras.callbacks.Callback):
    """Put the metrics of all ranks into the logs of an epoch.

    Metrics whose state Keras keeps are computed over the rows of all ranks, exactly; other
    entries of the logs are averaged, weighted by the rows that each rank saw. Place it before
    the callbacks that read the logs (the history and the progress bar always come later).
    Data from `hvd.shard` has such logs for every callback anyway.

    Args:
        device: kept for scripts written for Horovod.

    Raises:
        RankMismatchError: on every rank, when a metric exists on some ranks only.
    """

    def __init__(self, device: str = "") -> None:
        super().__init__()
        self.device = device
        self._training: dict[str, Any] | None = None
        self._training_rows = 0.0
        self._validation: dict[str, Any] = {}
        self._in_fit = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Remember that `fit` runs, since `evaluate` calls callbacks too."""
        self._in_fit = True

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Forget it."""
        self._in_fit = False

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Forget the last epoch."""
        self._training = None
        self._validation = {}

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Take the training metrics before validation resets them."""
        if self._in_fit and self._training is None and topology.size() > 1:
            self._take_training()

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Take the validation metrics."""
        if self._in_fit and topology.size() > 1:
            results = metrics_over_ranks(self.model)
            self._validation = {f"val_{name}": value for name, value in results.items()}

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Replace the entries of the logs."""
        if logs is None or topology.size() == 1:
            return
        if self._training is None:
            self._take_training()
        # Compares the names first: a metric on one rank only is an error, not a hang.
        logs.update(average_over_ranks(self.model, logs, rows=self._training_rows))
        exact = {**(self._training or {}), **self._validation}
        logs.update({name: value for name, value in exact.items() if name in logs})

    def _take_training(self) -> None:
        self._training_rows = rows_seen(self.model)
        self._training = metrics_over_ranks(self.model)
