"""How much faster a training gets on more ranks: laws that are fitted to what was measured.

Amdahl's law, for a batch that stays as it is (strong scaling): of the time of a step on the fewest
ranks, a share s stays whatever one does, so on r times as many a step takes s + (1 - s) / r of it.

Gustafson's law, for a batch that grows with the ranks (weak scaling): on r times as many ranks,
the speed is s + (1 - s) r times that on the fewest.

Both are a line, y = a + b z with a, b >= 0 and s = a / (a + b): for Amdahl y is the time of a row
and z = 1 / r, for Gustafson y is the speed and z = r.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

ROUNDS_FOR_A_RANGE = 3
"""From two rounds a range follows, too, but one of so many times the value that it says nothing."""

# Student's t for 95 % within both ends, by degrees of freedom from 1.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
_NORMAL = 1.95996

Round = Mapping[int, float]
"""Speeds by numbers of ranks, measured one after the other."""


@dataclass(frozen=True)
class Estimate:
    """A figure, and what is known of it.

    Attributes:
        value: the figure.
        low: with `high`, where the true one is in 95 of 100 cases; None where there are fewer
            than `ROUNDS_FOR_A_RANGE` rounds.
        high: see `low`.
    """

    value: float
    low: float | None = None
    high: float | None = None

    def mapped(self, function: Callable[[float], float]) -> Estimate:
        """The same on another scale, such as in another unit; the function only rises or falls."""
        value = function(self.value)
        if self.low is None or self.high is None:
            return Estimate(value)
        return Estimate(value, *sorted((function(self.low), function(self.high))))

    def holds(self, value: float) -> bool:
        """Whether it agrees with a value; not known, so False, without a range."""
        return self.low is not None and self.high is not None and self.low <= value <= self.high


@dataclass(frozen=True)
class Law:
    """A line through speeds on several numbers of ranks.

    Attributes:
        name: whose law it is.
        y: what is on the line, of a speed; its own inverse.
        z: where on the line a multiple of the fewest ranks is.
    """

    name: str
    y: Callable[[float], float]
    z: Callable[[float], float]

    def speed_up(self, serial: float, ratio: float) -> float:
        """How many times as fast it is on so many times as many ranks.

        Args:
            serial: the share s.
            ratio: r.
        """
        return self.y(serial + (1 - serial) * self.z(ratio)) / self.y(1.0)


def _inverse(value: float) -> float:
    return 1 / value


def _itself(value: float) -> float:
    return value


AMDAHL = Law("Amdahl", _inverse, _inverse)
GUSTAFSON = Law("Gustafson", _itself, _itself)


@dataclass(frozen=True)
class Check:
    """What a law says about the most ranks, fitted to all others, beside what was measured.

    Attributes:
        ranks: their number.
        predicted: the speed-up that the others let expect.
        measured: the speed-up there.
    """

    ranks: int
    predicted: Estimate
    measured: Estimate

    @property
    def miss(self) -> float:
        """By which share the prediction is too high."""
        return self.predicted.value / self.measured.value - 1


@dataclass(frozen=True)
class Fit:
    """A law that was fitted to what was measured.

    Attributes:
        law: which.
        fewest: the ranks that all is compared with.
        serial: the share that more ranks do not make faster.
        twice: twice the most ranks that were measured.
        expected: the speed-up there. What it may be off by takes in by how much `check` misses.
        check: None with two numbers of ranks, through which each law goes exactly.
    """

    law: Law
    fewest: int
    serial: Estimate
    twice: int
    expected: Estimate
    check: Check | None

    def speed_up(self, ranks: float) -> float:
        """The speed-up by the law."""
        return self.law.speed_up(self.serial.value, ranks / self.fewest)


def fit_law(law: Law, rounds: Sequence[Round]) -> Fit:
    """Fit a law to speeds, and say what is to be expected on twice the most ranks.

    Each round is fitted by itself, so that a machine whose speed drifts from round to round does
    no harm; the spread of what they say is the uncertainty.

    Args:
        law: `AMDAHL` or `GUSTAFSON`.
        rounds: speeds, rows or the like a second; of the same numbers of ranks in each.

    Raises:
        ValueError: there are fewer than two numbers of ranks, not the same in all rounds, or a
            speed is not positive.

    Example:
        >>> fit = fit_law(AMDAHL, [{1: 100.0, 2: 181.8, 4: 307.7}])
        >>> round(fit.serial.value, 3), fit.twice, round(fit.expected.value, 2)
        (0.1, 8, 4.71)
    """
    _require_rounds(rounds)
    sizes = sorted(rounds[0])
    fewest, most = sizes[0], sizes[-1]
    check, miss = None, 0.0
    if len(sizes) > 2:
        others = [{size: speeds[size] for size in sizes[:-1]} for speeds in rounds]
        predicted = _expected(law, _serial(law, others), most / fewest)
        check = Check(most, predicted, speed_ups(rounds, most))
        miss = abs(math.log1p(check.miss))
    serial = _serial(law, rounds)
    expected = _expected(law, serial, 2 * most / fewest, miss)
    return Fit(law, fewest, serial, 2 * most, expected, check)


def mean(values: Sequence[float]) -> Estimate:
    """The mean of what was measured in each round."""
    middle, half = statistics.fmean(values), _half(values)
    return Estimate(middle) if half is None else Estimate(middle, middle - half, middle + half)


def ratio_mean(values: Sequence[float]) -> Estimate:
    """The mean of ratios, such as speed-ups: twice as fast and half as fast cancel each other."""
    return mean([math.log(value) for value in values]).mapped(math.exp)


def speed_ups(rounds: Sequence[Round], ranks: int) -> Estimate:
    """How many times as fast it is on so many ranks as on the fewest, both in the same round."""
    return ratio_mean([speeds[ranks] / speeds[min(speeds)] for speeds in rounds])


def _require_rounds(rounds: Sequence[Round]) -> None:
    sizes = [sorted(speeds) for speeds in rounds]
    if not sizes or len(sizes[0]) < 2 or any(each != sizes[0] for each in sizes):
        raise ValueError(f"a law needs the same two numbers of ranks or more each round: {sizes}.")
    if not all(0 < speed < math.inf for speeds in rounds for speed in speeds.values()):
        raise ValueError(f"speeds are positive numbers: {[dict(speeds) for speeds in rounds]}.")


def _serial(law: Law, rounds: Sequence[Round]) -> Estimate:
    """The share s."""
    # Only the mean is held to what a share can be: else noise would count on one side alone.
    return mean([_share(law, speeds) for speeds in rounds]).mapped(lambda s: min(max(s, 0.0), 1.0))


def _share(law: Law, speeds: Round) -> float:
    """The share s of the line that is nearest, where what counts is the relative error.

    Noise may take it below 0, or above 1.
    """
    fewest = min(speeds)
    ys = [law.y(speed) for speed in speeds.values()]
    zs = [law.z(ranks / fewest) for ranks in speeds]
    # Least squares of (a + b z) / y - 1.
    rows = [(1 / y, z / y) for y, z in zip(ys, zs, strict=True)]
    aa, ab, bb = (sum(row[i] * row[j] for row in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    a1, b1 = sum(row[0] for row in rows), sum(row[1] for row in rows)
    a, b = a1 * bb - b1 * ab, b1 * aa - a1 * ab  # times the determinant, which is positive
    if a + b <= 0:  # far from any law
        return float(b < 0)
    return a / (a + b)


def _expected(law: Law, serial: Estimate, ratio: float, miss: float = 0.0) -> Estimate:
    """The speed-up; `miss` is how far its logarithm may be off besides."""
    found = serial.mapped(lambda share: law.speed_up(share, ratio))
    if found.low is None or found.high is None or not miss:
        return found
    below, above = math.log(found.value / found.low), math.log(found.high / found.value)
    return Estimate(
        found.value,
        found.value / math.exp(math.hypot(below, miss)),
        found.value * math.exp(math.hypot(above, miss)),
    )


def _half(values: Sequence[float]) -> float | None:
    """Half of the range in which the true mean is in 95 of 100 cases; None of too few."""
    if len(values) < ROUNDS_FOR_A_RANGE:
        return None
    freedom = len(values) - 1
    spread = statistics.stdev(values) / math.sqrt(len(values))
    return (_T[freedom - 1] if freedom <= len(_T) else _large_t(freedom)) * spread


def _large_t(freedom: int) -> float:
    """Student's t by the first terms of its series in 1 / freedom."""
    z = _NORMAL
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
