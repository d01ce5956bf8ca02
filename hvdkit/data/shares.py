"""How many rows of a global batch each rank gets, and which."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from numbers import Real
from typing import Any, Protocol

import numpy as np


class Deal:
    """Which rank gets which row of a global batch: they are dealt out like cards.

    A rank with more rows gets them in between those of the others, so that a batch of fewer rows
    is divided in proportion, too. Who gets a row does not depend on how many rows come after it.

    Args:
        counts: how many rows each rank gets before the dealing begins again.
    """

    def __init__(self, counts: Sequence[int]) -> None:
        self.counts = tuple(counts)
        ranks = np.repeat(np.arange(len(self.counts)), self.counts)
        turns = np.concatenate([(np.arange(count) + 0.5) / count for count in self.counts])
        owners = ranks[np.lexsort((ranks, turns))]
        self._places = [np.flatnonzero(owners == rank) for rank in range(len(self.counts))]

    def own(self, rank: int, rows: int) -> np.ndarray:
        """The rows of a rank in a global batch of so many (int64), in order."""
        period = sum(self.counts)
        found = self._repeated(rank, -(-rows // period))
        return found[: np.searchsorted(found, rows)]

    def first(self, rank: int, count: int) -> np.ndarray:
        """The first rows of a rank (int64)."""
        return self._repeated(rank, -(-count // self.counts[rank]))[:count]

    def _repeated(self, rank: int, times: int) -> np.ndarray:
        starts = sum(self.counts) * np.arange(times)
        return (starts[:, None] + self._places[rank]).ravel()


class Shares(Protocol):
    """How the rows of global batches are shared among the ranks."""

    @property
    def unequal(self) -> bool:
        """Whether ranks may have different numbers of rows in a batch that divides."""
        ...

    @property
    def weights(self) -> tuple[float, ...] | None:
        """What each rank's rows are in proportion to now; None for equal shares."""
        ...

    def now(self, size: int, rows: int) -> Deal:
        """How batches are dealt to so many ranks that are read in order.

        Args:
            size: how many ranks share them.
            rows: of a full batch.
        """
        ...

    def by_step(self, size: int, rows: int) -> Callable[[int], Deal]:
        """How the batches of a pass that begins now are dealt, by the step in the pass.

        The steps are asked for in their order, by the thread that reads.
        """
        ...


@dataclass(frozen=True)
class EqualShares:
    """Every rank gets as many rows as the others; it is for any number of ranks."""

    unequal = False
    weights = None

    def now(self, size: int, rows: int) -> Deal:
        """See `Shares.now`."""
        del rows
        return _equal(size)

    def by_step(self, size: int, rows: int) -> Callable[[int], Deal]:
        """See `Shares.by_step`."""
        deal = self.now(size, rows)
        return lambda step: deal


EQUAL = EqualShares()


@dataclass(frozen=True)
class FixedShares:
    """Rows in proportion to given numbers.

    Attributes:
        weights: one positive number for each rank.
    """

    weights: tuple[float, ...]
    unequal = True

    def now(self, size: int, rows: int) -> Deal:
        """See `Shares.now`."""
        assert size == len(self.weights)
        return deal_by(self.weights, rows)

    def by_step(self, size: int, rows: int) -> Callable[[int], Deal]:
        """See `Shares.by_step`."""
        deal = self.now(size, rows)
        return lambda step: deal


@lru_cache(maxsize=64)
def deal_by(weights: tuple[float, ...], rows: int) -> Deal:
    """The deal of batches of so many rows, in proportion to weights, see `apportioned`."""
    return Deal(apportioned(weights, rows))


def apportioned(weights: Sequence[float], rows: int) -> tuple[int, ...]:
    """Divide rows in proportion to weights, by largest remainders; everybody gets one at least.

    Args:
        weights: positive numbers.
        rows: at least as many as there are weights.

    Returns:
        Numbers that add up to `rows`, the same on every machine.

    Example:
        >>> apportioned([2, 1], 64)
        (43, 21)
    """
    exact = [Fraction(weight) for weight in weights]
    total = sum(exact)
    quotas = [rows * weight / total for weight in exact]
    counts = [math.floor(quota) for quota in quotas]
    by_remainder = sorted(range(len(counts)), key=lambda i: (counts[i] - quotas[i], i))
    for i in by_remainder[: rows - sum(counts)]:
        counts[i] += 1
    for i, count in enumerate(counts):
        if count == 0:
            counts[counts.index(max(counts))] -= 1
            counts[i] = 1
    return tuple(counts)


def numbers_in(weights: Any, size: int) -> tuple[float, ...]:
    """The weights that a user gives, checked.

    Args:
        weights: what `hvd.shard` got.
        size: how many ranks share the data.

    Raises:
        TypeError: it is no list of numbers.
        ValueError: they are not positive and finite, or not one for each rank.
    """
    what = 'weights is "measured", or one positive number for each rank, as in weights=[2, 1, 1]'
    if not isinstance(weights, (list, tuple, np.ndarray)):
        raise TypeError(f"{what}, not {weights!r}.")
    given = list(weights)
    if not all(isinstance(one, Real) and not isinstance(one, bool) for one in given):
        raise TypeError(f"{what}, not {weights!r}.")
    if len(given) != size:
        raise ValueError(
            f"weights has {len(given)} numbers for {size} ranks that read different rows: give one "
            'for each. Where the number of ranks changes, as in elastic jobs, weights="measured" '
            "finds them."
        )
    numbers = tuple(map(float, given))
    for rank, number in enumerate(numbers):
        if not (math.isfinite(number) and number > 0):
            raise ValueError(f"{what}; that of rank {rank} is {number:g}.")
    return numbers


@lru_cache(maxsize=8)
def _equal(size: int) -> Deal:
    return Deal([1] * size)
