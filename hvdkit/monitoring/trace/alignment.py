"""Times of a rank, told by the clock of the first one."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from hvdkit.watch.slices import Slice


class Comparison(NamedTuple):
    """One comparison of clocks.

    Attributes:
        at: when it was, in seconds of this rank's clock.
        ahead: how far this rank's clock was ahead of the first one's, in seconds.
    """

    at: float
    ahead: float


def corrected_by(first: Comparison, second: Comparison) -> Callable[[Slice], Slice]:
    """What puts a slice into the time of the first rank; clocks drift evenly meanwhile."""
    rate = (second.ahead - first.ahead) / max(second.at - first.at, 1e-9)

    def moved(moment: float) -> float:
        return moment - first.ahead - rate * (moment - first.at)

    def corrected(each: Slice) -> Slice:
        inside = tuple(corrected(inner) for inner in each.inside)
        return each._replace(begin=moved(each.begin), end=moved(each.end), inside=inside)

    return corrected
