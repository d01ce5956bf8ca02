"""Shares that follow from how fast the ranks are, and change while the data is read."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from hvdkit.data.shares import (
    EQUAL,
    Deal,
    FixedShares,
    Shares,
    deal_by,
    numbers_in,
)

MEASURED = "measured"

# How many steps each rank may deal out while the ranks agree on other shares.
_STEPS_AHEAD = 8


class Place(NamedTuple):
    """A step of a training: the epoch in which its pass over the data began, the step in it."""

    epoch: int
    step: int


class MeasuredShares:
    """Equal shares, until the ranks agree on others: all of them from the same step on.

    Batches are dealt out ahead of the training, on each rank as it comes. So for a change each
    rank first says up to where it will go by itself (`hold`); the ranks take the furthest of these
    places, from which all of them deal anew (`change`). A rank that comes to its own place before
    that waits there.
    """

    unequal = True

    def __init__(self) -> None:
        self._epoch = 0
        self._current: tuple[float, ...] | None = None
        self._schedule = _Schedule(None)

    @property
    def weights(self) -> tuple[float, ...] | None:
        """The weights that the ranks have agreed on last; None for equal shares."""
        return self._current

    def now(self, size: int, rows: int) -> Deal:
        """See `Shares.now`."""
        return _deal(self._current, size, rows)

    def by_step(self, size: int, rows: int) -> Callable[[int], Deal]:
        """See `Shares.by_step`."""
        schedule, epoch = self._schedule, self._epoch
        return lambda step: _deal(schedule.weights_at(Place(epoch, step)), size, rows)

    def weights_at(self, place: Place) -> tuple[float, ...] | None:
        """The weights at a place that has been dealt out."""
        return self._schedule.weights_at(place)

    def begin(self) -> None:
        """A training begins, with the shares that there are; all ranks call it."""
        self._schedule.change(None, None)  # a pass that was left in its middle waits for nothing
        self._schedule = _Schedule(self._current)
        self._epoch = 0

    def begin_epoch(self, epoch: int) -> None:
        """Passes over the data that begin from now on belong to an epoch."""
        self._epoch = epoch

    def hold(self) -> Place:
        """Up to where this rank deals out with the shares that there are; then it waits."""
        return self._schedule.hold()

    def change(self, place: Place | None, weights: tuple[float, ...] | None) -> None:
        """Deal out with other weights from a place on, and go on.

        Args:
            place: the same on all ranks, none of which has come there; None not to change.
            weights: the same on all ranks; None with None.
        """
        self._schedule.change(place, weights)
        if place is not None:
            self._current = weights


class _Schedule:
    """Which weights hold from which place on; it is read by the threads that deal out."""

    def __init__(self, weights: tuple[float, ...] | None) -> None:
        self._changes: list[tuple[Place, tuple[float, ...] | None]] = [(Place(-1, 0), weights)]
        self._furthest = Place(-1, 0)
        self._limit: Place | None = None
        self._decided = threading.Condition()

    def weights_at(self, place: Place) -> tuple[float, ...] | None:
        with self._decided:
            self._decided.wait_for(lambda: self._limit is None or place < self._limit)
            self._furthest = max(self._furthest, place)
            return next(weights for since, weights in reversed(self._changes) if since <= place)

    def hold(self) -> Place:
        with self._decided:
            epoch, step = self._furthest
            self._limit = Place(epoch, step + 1 + _STEPS_AHEAD)
            return self._limit

    def change(self, place: Place | None, weights: tuple[float, ...] | None) -> None:
        with self._decided:
            if place is not None:
                self._changes.append((place, weights))
            self._limit = None
            self._decided.notify_all()


def _deal(weights: tuple[float, ...] | None, size: int, rows: int) -> Deal:
    return EQUAL.now(size, rows) if weights is None else deal_by(weights, rows)


def shares_of(weights: Any, size: int) -> Shares:
    """The shares that a user asks for.

    Args:
        weights: what `hvd.shard` got.
        size: how many ranks share the data.

    Raises:
        TypeError: weights are neither "measured" nor numbers.
        ValueError: the numbers are not positive, or not one for each rank; "measured" where the
            host's clock does not tell when a step is computed.
    """
    if weights is None:
        return EQUAL
    if isinstance(weights, str) and weights == MEASURED:
        if tf.config.get_visible_devices("GPU"):
            raise ValueError(
                'weights="measured" measures by the clock of the host, which does not know when a '
                "GPU has computed something: give the numbers, as in weights=[2, 1, 1]."
            )
        return MeasuredShares()
    numbers = numbers_in(weights, size)
    return FixedShares(numbers) if len(set(numbers)) > 1 else EQUAL
