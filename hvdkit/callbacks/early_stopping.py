"""EarlyStopping that stops all ranks at the same epoch."""

from __future__ import annotations

from typing import Any

import keras

from hvdkit.callbacks.averaged_logs import AgreedLogs
from hvdkit.state.outside_variables import remake_functions, renew


class EarlyStopping(AgreedLogs, keras.callbacks.EarlyStopping):
    """`keras.callbacks.EarlyStopping` that decides by the metrics of all ranks, alike on each.

    Takes the arguments of Keras's callback.
    """

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Restore the best weights, if that was asked for, and what layers make of them."""
        super().on_train_end(logs)
        if self.restore_best_weights and renew(self.model):
            remake_functions(self.model)
