"""What shares follow from how fast ranks are, and whether they are worth a change."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from hvdkit.data.shares import apportioned

# Shares change if a step gets shorter by this: less is noise.
LEAST_GAIN = 0.05
# A rank that says it is so many times faster or slower than the others has measured something else.
_MOST_APART = 32.0


def weights_worth_a_change(
    speeds: Sequence[float | None], now: Sequence[float] | None, rows: int
) -> tuple[float, ...] | None:
    """The weights with which a step gets shorter.

    The slowest rank decides how long a step takes; with rows in proportion to speeds all take as
    long.

    Args:
        speeds: rows per second of each rank, of its own computing; None where that is not known.
        now: the weights that there are; None for equal shares.
        rows: of a global batch.

    Returns:
        The same on every rank for the same arguments; None where they should stay as they are: the
        gain is small, or a speed is not known or can't be true.
    """
    known = [speed for speed in speeds if speed is not None and is_speed(speed)]
    if len(known) < len(speeds):
        return None
    middle = statistics.median(known)
    if any(not middle / _MOST_APART <= speed <= middle * _MOST_APART for speed in known):
        return None
    before = _seconds(apportioned(now or [1.0] * len(known), rows), known)
    after = _seconds(apportioned(known, rows), known)
    return tuple(known) if after < before * (1 - LEAST_GAIN) else None


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


def _seconds(rows: Sequence[int], speeds: Sequence[float]) -> float:
    """How long a step takes, without what all ranks do alike."""
    return max(count / speed for count, speed in zip(rows, speeds, strict=True))
