"""The alarms of a job that names none."""

from __future__ import annotations

from hvdkit.monitoring.alarms.base import Lookout
from hvdkit.monitoring.alarms.full_disk import FullDisk
from hvdkit.monitoring.alarms.loss_jump import LossJump
from hvdkit.monitoring.alarms.slow_data import SlowData
from hvdkit.monitoring.alarms.slow_throughput import SlowThroughput
from hvdkit.monitoring.alarms.straggler import Straggler


def default_alarms() -> list[Lookout]:
    """One of each, with its defaults; of disks that of the current folder.

    Returns:
        New ones with each call, as each remembers the job that it looks at.

    Example:
        >>> hvd.callbacks.Monitor(
        ...     alarms=[*hvd.monitoring.default_alarms(), hvd.monitoring.FullDisk("/scratch")]
        ... )
    """
    return [Straggler(), SlowData(), LossJump(), SlowThroughput(), FullDisk()]
