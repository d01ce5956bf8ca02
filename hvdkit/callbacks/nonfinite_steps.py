"""What a `fit` does about steps that were left out because gradients held NaN or Inf."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from hvdkit.engine import is_initialized, logger, topology
from hvdkit.optimizers.finite import guards
from hvdkit.state.reachable import optimizers_of


class NonfiniteSteps(keras.callbacks.Callback):
    """Calls the optimizers' policies, and counts in the logs; `fit` adds it.

    Args:
        others: the other callbacks of the `fit`.
    """

    def __init__(self, others: Sequence[Any]) -> None:
        super().__init__()
        self._others = others

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Let the policies prepare."""
        self._guards = [
            guard for one in optimizers_of(self.model) for guard in guards(one.optimizer)
        ]
        self._policies = {id(guard.policy): guard.policy for guard in self._guards}
        self._each_step = any(policy.each_step for policy in self._policies.values())
        for policy in self._policies.values():
            policy.begin(self._others)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Count from here."""
        self._before = self._skipped()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Let the policies act, if they want to at once."""
        if self._each_step:
            self._react()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Let the policies act, and report."""
        self._react()
        count = self._skipped() - self._before
        if logs is not None:
            logs["nonfinite_steps"] = count
        if count and (not is_initialized() or topology.rank() == 0):
            logger.warning(
                "hvdkit: steps left out of epoch %d because gradients held NaN or Inf: %d "
                "(%d so far).",
                epoch + 1,
                count,
                self._skipped(),
            )

    def _skipped(self) -> int:
        return sum(guard.skipped for guard in self._guards)

    def _react(self) -> None:
        for guard in self._guards:
            guard.react()
