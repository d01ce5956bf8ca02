"""The old name of `hvdkit.schedules.gantt`."""

import warnings

from hvdkit.schedules.gantt import draw

__all__ = ["draw"]

warnings.warn(
    "draw() is in hvdkit.schedules.gantt now, and no longer in hvdkit.parallel.pipeline.",
    DeprecationWarning,
    stacklevel=2,
)
