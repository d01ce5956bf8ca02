"""The old name of `hvdkit.schedules.simulation`."""

import warnings

from hvdkit.schedules.simulation import simulate

__all__ = ["simulate"]

warnings.warn(
    "simulate() is in hvdkit.schedules.simulation now, and no longer in hvdkit.parallel.pipeline.",
    DeprecationWarning,
    stacklevel=2,
)
