"""Metrics of all ranks instead of one."""

from __future__ import annotations

from typing import Any

import keras

from hvdkit.engine import several_ranks
from hvdkit.metrics.logs import over_ranks
from hvdkit.metrics.rows import TEST, TRAINING
from hvdkit.metrics.snapshot import Snapshot

_VALIDATION = "val_"


class LogsOfAllRanks(keras.callbacks.Callback):
    """Mixin that puts the metrics of all ranks into the logs of an epoch before it goes on.

    Attributes:
        only_if_different: leave logs alone that are the same on all ranks.
    """

    only_if_different = False
    _training: Snapshot | None = None
    _validation: Snapshot | None = None
    _in_fit = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Remember that `fit` runs, since `evaluate` calls callbacks too."""
        self._in_fit = several_ranks()
        super().on_train_begin(logs)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Forget it."""
        self._in_fit = False
        super().on_train_end(logs)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Forget the last epoch."""
        self._training = self._validation = None
        super().on_epoch_begin(epoch, logs)

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Take the training metrics before validation resets them."""
        if self._in_fit and self._training is None:
            self._training = Snapshot(self.model, TRAINING)
        super().on_test_begin(logs)

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Take the validation metrics."""
        if self._in_fit:
            self._validation = Snapshot(self.model, TEST)
        super().on_test_end(logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Replace the entries of the logs."""
        if logs is not None and several_ranks():
            logs.update(self._over_ranks(logs))
        super().on_epoch_end(epoch, logs)

    def _over_ranks(self, logs: dict[str, Any]) -> dict[str, Any]:
        of_validation = [name for name in logs if self._validation and name.startswith(_VALIDATION)]
        training = {name: value for name, value in logs.items() if name not in of_validation}
        validation = {name.removeprefix(_VALIDATION): logs[name] for name in of_validation}
        new = over_ranks(
            self.model,
            training,
            self._training or Snapshot(self.model, TRAINING),
            only_if_different=self.only_if_different,
            others=of_validation,
        )
        if self._validation is not None:
            results = over_ranks(
                self.model, validation, self._validation, only_if_different=self.only_if_different
            )
            new |= {f"{_VALIDATION}{name}": value for name, value in results.items()}
        return new


class MetricAverageCallback(LogsOfAllRanks):
    """Put the metrics of all ranks into the logs of an epoch.

    Metrics whose state Keras keeps are computed over the rows of all ranks, exactly; other
    entries of the logs are averaged, weighted by the rows that each rank saw, and said once if
    they differ. Place it before the callbacks that read the logs (the history and the progress
    bar always come later). Data from `hvd.shard` has such logs for every callback anyway.

    Args:
        device: kept for scripts written for Horovod.

    Raises:
        RankMismatchError: on every rank, when a metric exists on some ranks only.
    """

    def __init__(self, device: str = "") -> None:
        super().__init__()
        self.device = device
