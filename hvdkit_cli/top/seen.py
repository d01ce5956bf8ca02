"""What is known of a job from the lines that it has written."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from hvdkit.monitoring.sample import Alarm, Job, Sample
from hvdkit.monitoring.sinks.lines import End, Line

_ALARMS_SHOWN = 5
# A job that writes a sample in so many seconds, or in three times as long as the last one took,
# is not silent.
_PATIENCE_SECONDS = 20.0


@dataclass
class Seen:
    """The last `fit` in a file.

    Attributes:
        job: what is trained; None before the first line.
        steps: the last figures.
        epoch: the last logs of an epoch.
        alarms: the last alarms.
        last: when the last line was written, in seconds since 1970.
        ended: whether the `fit` has ended.
    """

    job: Job | None = None
    steps: Sample | None = None
    epoch: Sample | None = None
    alarms: deque[Alarm] = field(default_factory=lambda: deque(maxlen=_ALARMS_SHOWN))
    last: float = 0.0
    ended: bool = False
    _interval: float = 0.0

    def take(self, lines: Iterable[Line]) -> None:
        """Learn from new lines."""
        for line in lines:
            self._take(line)

    def silent_seconds(self, now: float) -> float | None:
        """For how long nothing has come where something should have; None if all is well.

        Args:
            now: seconds since 1970.
        """
        silent = now - self.last
        is_silent = not self.ended and silent > max(_PATIENCE_SECONDS, 3 * self._interval)
        return silent if is_silent else None

    def _take(self, line: Line) -> None:
        match line.event:
            case Job():
                self.job, self.steps, self.epoch = line.event, None, None
                self._interval = 0.0
                self.alarms.clear()
            case Sample(steps=0):
                self.epoch = line.event
            case Sample():
                if self.steps is not None:
                    self._interval = max(line.event.time - self.steps.time, 0.0)
                self.steps = line.event
            case Alarm():
                self.alarms.append(line.event)
        self.ended = isinstance(line.event, End)
        self.last = line.time
