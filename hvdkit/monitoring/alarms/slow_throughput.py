"""Throughput that falls."""

from __future__ import annotations

import math
from collections import deque
from statistics import median

from hvdkit.monitoring.alarms.base import Lasting, check_samples, check_share
from hvdkit.monitoring.sample import Alarm, Sample

# Samples that the median is of: enough for hours, and soon sorted.
_REMEMBERED = 1000


class SlowThroughput:
    """Throughput that falls below a share of the job's own median: "throughput".

    It is told of a job that trained on fewer than `share` of its usual rows a second in `samples`
    of the last `of` samples. Usual is the median of the last thousand samples that were not slow;
    the first `of` samples are only learned from. A job that has more or fewer ranks than before
    begins again.

    Rows of very different lengths make throughput differ by itself.

    Args:
        share: how much of the median is enough, above 0 and below 1.
        samples: in how many samples it has to be less.
        of: of how many.

    Raises:
        ValueError: a share that is none, or numbers of samples that do not fit.

    Example:
        >>> hvd.callbacks.Monitor(alarms=[hvd.monitoring.SlowThroughput(share=0.9)])
    """

    def __init__(self, share: float = 0.7, samples: int = 8, of: int = 10) -> None:
        check_share("SlowThroughput", "share", share)
        check_samples("SlowThroughput", samples, of)
        self._share, self._samples, self._of = share, samples, of
        self._ranks = 0
        self._begin()

    def _begin(self) -> None:
        self._usual: deque[float] = deque(maxlen=_REMEMBERED)
        self._lasting = Lasting(self._samples, self._of)

    def look(self, sample: Sample) -> Alarm | None:
        """Look at a sample; those without rows a second say nothing."""
        speed = sample.values.get("rows_per_second", math.nan)
        if not sample.steps or not math.isfinite(speed):
            return None
        if len(sample.ranks) != self._ranks:
            self._ranks = len(sample.ranks)
            self._begin()
        if len(self._usual) < self._of:
            self._usual.append(speed)
            return None
        usual = median(self._usual)
        slow = speed < self._share * usual
        if not slow:
            self._usual.append(speed)
        if not self._lasting.begins(sample, slow):
            return None
        return Alarm(
            "throughput",
            f"the job trains on {speed:.4g} rows a second since step {self._lasting.since}, "
            f"{100 * speed / usual:.0f} % of its usual {usual:.4g}: look at where the time of a "
            "step goes now (computing, waiting for ranks or data).",
            sample.step,
        )
