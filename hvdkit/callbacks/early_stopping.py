"""EarlyStopping that stops all ranks at the same epoch."""

from __future__ import annotations

import keras

from hvdkit.callbacks.agreed_logs import AgreedLogs


class EarlyStopping(AgreedLogs, keras.callbacks.EarlyStopping):
    """`keras.callbacks.EarlyStopping` that decides by the metrics of all ranks, alike on each.

    Takes the arguments of Keras's callback.
    """
