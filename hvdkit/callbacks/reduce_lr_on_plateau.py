"""ReduceLROnPlateau that lowers the rate on all ranks at the same epoch."""

from __future__ import annotations

import keras

from hvdkit.callbacks.averaged_logs import AgreedLogs


class ReduceLROnPlateau(AgreedLogs, keras.callbacks.ReduceLROnPlateau):
    """`keras.callbacks.ReduceLROnPlateau` that decides by the metrics of all ranks, alike on each.

    Takes the arguments of Keras's callback.
    """
