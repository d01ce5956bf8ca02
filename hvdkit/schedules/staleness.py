"""Who may go on, and whose gradients are applied together: decided from how far workers are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Clock:
    """The clocks of workers: how many steps of each have arrived.

    Stale synchronous parallel (Ho et al., 2013,
    https://papers.nips.cc/paper/4894-more-effective-distributed-ml-via-a-stale-synchronous-parallel-parameter-server):
    a worker begins a step while its clock is at most `staleness` ahead of the slowest one's. With
    0 all make each step together; with None nobody waits.

    Args:
        workers: the workers.
        staleness: the largest lead with which a worker begins a step.
    """

    def __init__(self, workers: Iterable[int], staleness: int | None) -> None:
        self._steps = dict.fromkeys(workers, 0)
        self._staleness = staleness

    @property
    def active(self) -> list[int]:
        """The workers that have not left."""
        return list(self._steps)

    @property
    def slowest(self) -> int:
        """The steps of the worker that has made the fewest, of those that have not left."""
        return min(self._steps.values(), default=0)

    @property
    def last(self) -> list[int]:
        """The workers that have made the fewest steps."""
        return [worker for worker, steps in self._steps.items() if steps == self.slowest]

    def steps(self, worker: int) -> int:
        """The steps of a worker that have arrived."""
        return self._steps[worker]

    def tick(self, worker: int) -> None:
        """A step of a worker has arrived."""
        self._steps[worker] += 1

    def leave(self, worker: int) -> None:
        """A worker has made its last step; nobody waits for it any more."""
        del self._steps[worker]

    def may_begin(self, worker: int) -> bool:
        """Whether a worker may begin its next step."""
        if self._staleness is None:
            return True
        return self._steps[worker] - self.slowest <= self._staleness


class StepsTogether(Generic[T]):
    """What the workers have sent of one step, until that of all is there.

    With a staleness of 0, no worker sends twice before all have sent once.
    """

    def __init__(self) -> None:
        self._sent: dict[int, T] = {}

    def add(self, worker: int, sent: T) -> None:
        """Keep what a worker has sent."""
        self._sent[worker] = sent

    def take(self, active: Iterable[int]) -> list[T]:
        """What has been sent, in the order of the workers, if nobody's is missing; else nothing.

        Args:
            active: the workers that are waited for.
        """
        if not self._sent or any(worker not in self._sent for worker in active):
            return []
        sent, self._sent = self._sent, {}
        return [sent[worker] for worker in sorted(sent)]
