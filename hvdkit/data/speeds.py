"""How fast a rank is, what shares follow from it, and whether they are worth a change."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from hvdkit.data.shares import apportioned
from hvdkit.watch.moments import Moments, Span

# The first steps of a training are like no others: functions are traced, data is opened.
_LEFT_OUT = 2
# So many steps are measured before the ranks agree, then four times as many, up to the most. A few
# are enough to be near; the error of a median falls with the root of their number.
_FIRST, _TIMES, _MOST = 8, 4, 128
# Shares change if a step gets shorter by this, after the first steps: less is noise.
LEAST_GAIN = 0.05
# Of the weight that its speed gives it, for a rank that would be late without any row.
_LEAST_SHARE = 1e-3
# Ranks that are so many times faster than others have measured something else.
_MOST_APART = 64.0


class Measured:
    """How fast a rank was in its last steps, and when there are enough for the ranks to agree.

    Args:
        accumulated: steps of which only the last one has gradients of its own.
        again: whether the shares follow from an earlier training, so that a few steps could only
            make them worse.

    Attributes:
        steps: how many are measured before the ranks agree.
    """

    def __init__(self, accumulated: int = 1, *, again: bool = False) -> None:
        self.steps = _TIMES * _FIRST if again else _FIRST
        self._accumulated = accumulated
        self._executions = -_LEFT_OUT
        self._speeds: list[float] = []
        self._besides: list[float] = []

    def add(self, speed: float | None, besides: float | None = None) -> bool:
        """Take a step.

        Args:
            speed: rows per second of its own computing; None if nobody knows.
            besides: seconds of what it does besides; None if nobody knows.

        Returns:
            Whether the ranks agree now, at the same step on each.
        """
        self._executions += 1
        if self._executions > 0 and speed is not None:
            self._speeds.append(speed)
        if self._executions > 0 and besides is not None:
            self._besides.append(besides)
        return self._executions == self.steps * self._accumulated

    @property
    def speed(self) -> float | None:
        """The median; None if no step could be measured."""
        return statistics.median(self._speeds) if self._speeds else None

    @property
    def besides(self) -> float:
        """The median; 0 if no step could be measured."""
        return statistics.median(self._besides) if self._besides else 0.0

    def begin_again(self) -> None:
        """The ranks have agreed: measure more steps before they do again."""
        self.steps = min(_TIMES * self.steps, _MOST)
        self._executions, self._speeds, self._besides = 0, [], []


def own_seconds(moments: Moments) -> float | None:
    """How long the last step of this rank has computed, from its batch to its gradients.

    Where it has waited for other ranks in between, as in `hvd.SyncBatchNormalization`, does not
    count.

    Args:
        moments: as they are after the step.

    Returns:
        None if the step had no gradients that were exchanged, or its moments make no sense.
    """
    begin, end = moments.batch, moments.gradients
    if not 0 < begin < end:
        return None
    seconds = _without_waits(begin, end, [*moments.collectives, *moments.spans])
    return seconds if seconds > 0 else None


def besides_seconds(before: Moments, moments: Moments) -> float | None:
    """How long a rank did other things before a step: its update, callbacks, making the batch.

    Args:
        before: moments after the step before.
        moments: after the step.

    Returns:
        None if that is not known, as where not each step ends with an exchange.
    """
    begin, end = before.exchanged, moments.batch
    if not 0 < before.batch <= begin < end:
        return None
    spans = (before.collectives, before.spans, moments.collectives, moments.spans)
    return _without_waits(begin, end, [span for each in spans for span in each])


def _without_waits(begin: float, end: float, spans: Iterable[Span]) -> float:
    """Seconds from one moment to another, without those of waiting for other ranks."""
    seconds, covered = end - begin, begin
    waits = sorted((span.begun, span.done) for span in spans if _waits(span))
    for begun, done in waits:
        begun, done = max(begun, covered), min(done, end)
        if done > begun:
            seconds -= done - begun
            covered = done
    return seconds


def weights_worth_a_change(
    speeds: Sequence[float],
    now: Sequence[float] | None,
    rows: int,
    steps: int = _FIRST,
    besides: Sequence[float] | None = None,
) -> tuple[float, ...] | None:
    """The weights with which a step gets shorter.

    The slowest rank decides how long a step takes; so all are to take as long.

    Args:
        speeds: rows per second of each rank, of its own computing.
        now: the weights that there are; None for equal shares.
        rows: of a global batch.
        steps: how many were measured.
        besides: seconds that a step takes each rank besides, however many rows it has; None for 0.

    Returns:
        The same on every rank for the same arguments; None where the gain is small.
    """
    besides = [0.0] * len(speeds) if besides is None else besides
    weights = _balanced(speeds, besides, rows)
    before = _seconds(apportioned(now or [1.0] * len(speeds), rows), speeds, besides)
    after = _seconds(apportioned(weights, rows), speeds, besides)
    noise = LEAST_GAIN * math.sqrt(_FIRST / steps)
    return weights if after < before * (1 - noise) else None


def _balanced(speeds: Sequence[float], besides: Sequence[float], rows: int) -> tuple[float, ...]:
    """Rows a second, of its whole step, of each rank in a step that takes all ranks as long."""
    ranks = list(zip(speeds, besides, strict=True))
    taking = ranks
    while True:
        given = rows + sum(speed * other for speed, other in taking)
        seconds = given / sum(speed for speed, _ in taking)
        in_time = [(speed, other) for speed, other in taking if other < seconds]
        if len(in_time) == len(taking):
            return tuple(speed * max(1 - other / seconds, _LEAST_SHARE) for speed, other in ranks)
        taking = in_time


def problem_with(speeds: Mapping[int, float | None], what: str = "rank") -> str | None:
    """Why nothing follows from speeds, in words.

    Args:
        speeds: rows per second of each rank; None where that could not be measured.
        what: has the speeds.
    """
    known = {rank: speed for rank, speed in speeds.items() if is_speed(speed)}
    if len(known) < len(speeds):
        unknown = ", ".join(str(rank) for rank in speeds if rank not in known)
        return f"no speed can be measured of the steps of {what} {unknown}"
    numbers = [speed for speed in known.values() if speed is not None]
    if max(numbers) > _MOST_APART * min(numbers):
        listed = ", ".join(f"{speed:.3g} on {what} {rank}" for rank, speed in known.items())
        return f"speeds so far apart can't be true ({listed}, in rows a second)"
    return None


def is_speed(speed: float | None) -> bool:
    """Whether a number can be a speed."""
    return speed is not None and math.isfinite(speed) and speed > 0


def described(rows: Mapping[int, int], hosts: Mapping[int, str], what: str = "rank") -> str:
    """How many rows each rank has, in words: "43 on rank 0 (host a), 21 on rank 1, 2 (host b)".

    Args:
        rows: of each rank.
        hosts: that of each rank, which is named where there are several.
        what: has the rows.
    """
    several = len(set(hosts.values())) > 1
    holders: dict[tuple[int, str], list[int]] = {}
    for rank, count in rows.items():
        holders.setdefault((count, hosts[rank] if several else ""), []).append(rank)
    return ", ".join(
        f"{count} on {what} {', '.join(map(str, ranks))}{f' (host {host})' if host else ''}"
        for (count, host), ranks in holders.items()
    )


def _seconds(rows: Sequence[int], speeds: Sequence[float], besides: Sequence[float]) -> float:
    """How long a step takes."""
    return max(
        other + count / speed for count, speed, other in zip(rows, speeds, besides, strict=True)
    )


def _waits(span: Span) -> bool:
    """Whether the step goes on only once the collective is done."""
    return not span.beside and span.done >= span.begun and math.isfinite(span.done)
