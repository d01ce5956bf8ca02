"""Energy that this rank's meters have counted."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from hvdkit.monitoring.readings.nvml import GpuMeter, visible_gpus
from hvdkit.monitoring.readings.rapl import POWERCAP, CpuMeter


class Meter(Protocol):
    """Counts energy.

    Attributes:
        counts: what of, in words.
    """

    @property
    def counts(self) -> str:
        """What it counts the energy of, in words."""
        ...

    def joules(self, seconds: float) -> float | None:
        """The energy since the call before, or since it was opened; None where it can't tell.

        Args:
            seconds: how long that is.
        """
        ...


@dataclass(frozen=True)
class Drawn:
    """Energy that was drawn in some time.

    Attributes:
        joules: how much.
        seconds: in which time.
    """

    joules: float
    seconds: float

    @property
    def watts(self) -> float:
        """The mean power."""
        return self.joules / self.seconds


class Power:
    """What all meters of a rank count together.

    Args:
        meters: at least one.

    Attributes:
        counts: what they count the energy of, in words.

    Example:
        >>> power = power_of_rank(reads_host=hvd.local_rank() == 0)
        >>> if power is not None and (drawn := power.read()) is not None:
        ...     print(drawn.watts)
    """

    def __init__(self, meters: Sequence[Meter]) -> None:
        self._meters = list(meters)
        self._read_at = time.monotonic()

    @property
    def counts(self) -> tuple[str, ...]:
        """What they count the energy of, in words."""
        return tuple(meter.counts for meter in self._meters)

    def read(self) -> Drawn | None:
        """The energy since the call before, or since they were opened.

        Returns:
            None where a meter can't tell: a part of the energy would be taken for all of it.
        """
        now = time.monotonic()
        seconds, self._read_at = now - self._read_at, now
        readings = [meter.joules(seconds) for meter in self._meters]
        told = [joules for joules in readings if joules is not None]
        if seconds <= 0 or len(told) < len(readings):
            return None
        return Drawn(sum(told), seconds)


def power_of_rank(
    *, reads_host: bool, gpus: Sequence[int] | None = None, powercap: str = POWERCAP
) -> Power | None:
    """Open the meters of this rank.

    Args:
        reads_host: whether it is this rank that counts its host's processors: one rank of each
            host does. They are counted with all that runs on them, this job or not.
        gpus: the rank's GPUs, by CUDA's numbers; those that TensorFlow may use, if not given.
            A GPU that several ranks share is counted by each of them.
        powercap: where Linux shows the meters of processors.

    Returns:
        None where there is no meter, or none that this process may read.
    """
    own = visible_gpus() if gpus is None else list(gpus)
    opened = [
        CpuMeter.open(powercap) if reads_host else None,
        GpuMeter.open(own) if own else None,
    ]
    meters: list[Meter] = [meter for meter in opened if meter is not None]
    return Power(meters) if meters else None
