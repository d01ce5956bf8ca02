"""The policies of `hvd.nonfinite`: what `fit` does about steps that were left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from hvdkit.engine import NonfiniteGradientError, logger, topology


@dataclass(frozen=True)
class Skipped:
    """Steps that were left out.

    Attributes:
        new: steps left out since the last report.
        in_a_row: steps left out since the last one that was not.
        total: steps left out so far.
        variables: paths of the variables whose gradients were not finite the last time.
    """

    new: int
    in_a_row: int
    total: int
    variables: tuple[str, ...]

    def __str__(self) -> str:
        names = ", ".join(self.variables[:3])
        more = f" and {len(self.variables) - 3} more" if len(self.variables) > 3 else ""
        return f"the gradients of {names}{more} held NaN or Inf"


class Policy(Protocol):
    """What is done about steps that were left out; alike on all ranks.

    Attributes:
        each_step: whether `react` is called after a batch, and not only at the end of an epoch.
    """

    each_step: bool

    def begin(self, callbacks: Iterable[Any]) -> None:
        """A `fit` begins, with these callbacks."""
        ...

    def react(self, skipped: Skipped) -> None:
        """Steps were left out."""
        ...


class Skip:
    """Leave the step out and go on.

    Args:
        limit: stop after more than this many such steps in a row; None for never.

    Raises:
        NonfiniteGradientError: on every rank: more than `limit` steps in a row.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.each_step = limit is not None

    def begin(self, callbacks: Iterable[Any]) -> None:
        """Nothing to prepare."""

    def react(self, skipped: Skipped) -> None:
        """Stop when there were too many."""
        if self.limit is not None and skipped.in_a_row > self.limit:
            raise NonfiniteGradientError(
                f"{skipped} in {skipped.in_a_row} steps in a row; the limit is {self.limit}."
            )


class Stop:
    """Leave the step out and stop.

    Raises:
        NonfiniteGradientError: on every rank.
    """

    each_step = True

    def begin(self, callbacks: Iterable[Any]) -> None:
        """Nothing to prepare."""

    def react(self, skipped: Skipped) -> None:
        """Stop."""
        raise NonfiniteGradientError(
            f"{skipped}. The step was not applied: the weights are those before it."
        )


class Restore:
    """Leave the step out and go back to the last checkpoint.

    Args:
        restore: what goes back; every rank calls it at the same step. Default: the method
            `restore()` of the first callback of the `fit` that has one.
        limit: how many times a training may go back.

    Raises:
        ValueError: a `fit` begins, and there is nothing to go back with.
        NonfiniteGradientError: on every rank, instead of going back once more than `limit`.
    """

    each_step = True

    def __init__(self, restore: Callable[[], object] | None = None, limit: int = 3) -> None:
        self._given = restore
        self._restore = restore
        self.limit = limit
        self.restored = 0

    def begin(self, callbacks: Iterable[Any]) -> None:
        """Find what goes back."""
        self.restored = 0
        if self._given is not None:
            return
        found = [callback for callback in callbacks if callable(getattr(callback, "restore", None))]
        if not found:
            raise ValueError(
                "hvd.nonfinite.Restore() needs a callback that can go back to its last "
                "checkpoint, one with a method restore(), in the callbacks of fit; or give it a "
                "function: Restore(restore=...)."
            )
        self._restore = found[0].restore

    def react(self, skipped: Skipped) -> None:
        """Go back."""
        if self._restore is None:
            raise ValueError(
                "hvd.nonfinite.Restore() has nothing to go back with outside of fit: "
                "give it a function, Restore(restore=...)."
            )
        if self.restored >= self.limit:
            raise NonfiniteGradientError(
                f"{skipped}, after going back to a checkpoint {self.restored} times."
            )
        self.restored += 1
        if topology.rank() == 0:
            logger.warning("hvdkit: %s; going back to the last checkpoint.", skipped)
        self._restore()
