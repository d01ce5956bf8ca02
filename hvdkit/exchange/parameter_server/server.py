"""What a rank that holds variables does: wait for messages, apply gradients, send weights."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np

from hvdkit.engine import topology
from hvdkit.engine.point_to_point import Arrived, Naps, PointToPoint
from hvdkit.exchange.parameter_server.messages import (
    DONE,
    END,
    PUSH,
    WEIGHTS,
    Layout,
    Push,
    Weights,
)
from hvdkit.exchange.parameter_server.updates import Updates
from hvdkit.schedules.staleness import Clock, StepsTogether
from hvdkit.watch.activity import activity


class Server:
    """One server's end of the messages.

    Args:
        messages: between all ranks.
        workers: the ranks that send gradients.
        updates: of this server's variables.
        layout: of this server's messages.
        staleness: see `Clock`.
    """

    def __init__(
        self,
        messages: PointToPoint,
        workers: Sequence[int],
        updates: Updates,
        layout: Layout,
        staleness: int | None,
    ) -> None:
        self._messages = messages
        self._workers = list(workers)
        self._updates = updates
        self._layout = layout
        self._staleness = staleness

    def serve(self) -> None:
        """Serve one training, until all workers have left it."""
        clock = Clock(self._workers, self._staleness)
        together: StepsTogether[Push] = StepsTogether()
        asking: list[int] = []
        with self._updates.serving():
            while clock.active:
                asking = self._answer(asking, clock)
                self._take(self._next(clock, blocked=bool(asking)), clock, together, asking)
        for worker in self._workers:
            self._messages.send(np.empty(0, np.uint8), worker, END)
        self._messages.flush()

    def _take(
        self, arrived: Arrived, clock: Clock, together: StepsTogether[Push], asking: list[int]
    ) -> None:
        """Do what a message asks for."""
        message = np.empty(arrived.size, np.uint8)
        self._messages.receive(message, arrived.source, arrived.tag)
        if arrived.tag == DONE:
            clock.leave(arrived.source)
        else:
            asking.append(arrived.source)
        if arrived.tag == PUSH:
            clock.tick(arrived.source)
            push = self._layout.read_push(message)
            if self._staleness != 0:
                self._updates.apply([push])
                return
            together.add(arrived.source, push)
        if pushes := together.take(clock.active):
            self._updates.apply(pushes)

    def _answer(self, asking: Sequence[int], clock: Clock) -> list[int]:
        """Send the weights to those who ask and may go on; returns the others."""
        going = [worker for worker in asking if clock.may_begin(worker)]
        if going:
            weights = Weights(clock.slowest, self._updates.values())
            message = self._layout.weights(weights)
            for worker in going:
                self._messages.send(message, worker, WEIGHTS)
        return [worker for worker in asking if worker not in going]

    def _next(self, clock: Clock, *, blocked: bool) -> Arrived:
        """Wait for a message.

        Args:
            clock: says who is waited for.
            blocked: whether a worker waits for those behind it, for no longer than any rank may.
        """
        what = f"a step of a parameter server (staleness={self._staleness})"
        ranks = [topology.rank(), *clock.last]
        waits = activity.doing(what, ranks) if blocked else contextlib.nullcontext()
        naps = Naps()
        with waits:
            while (arrived := self._messages.arrived()) is None:
                naps.nap()
        return arrived
