"""Measuring when each stage does what."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from types import TracebackType

import numpy as np

from hvdkit.engine import ProcessSet, allgather_object
from hvdkit.engine.point_to_point import PointToPoint
from hvdkit.schedules.actions import Action
from hvdkit.schedules.timeline import Span, Timeline

Note = tuple[Action, float, float]
_ROUNDS = 8
_TAG = 0


class Clock:
    """Notes when actions begin and end, while it is on.

    Attributes:
        on: whether it notes anything.
        steps: for each step its actions, with begin and end in seconds of this rank's clock.
    """

    def __init__(self) -> None:
        self.on = False
        self.steps: list[list[Note]] = []

    def new_step(self) -> None:
        """A step begins."""
        if self.on:
            self.steps.append([])

    @contextlib.contextmanager
    def times(self, action: Action) -> Iterator[None]:
        """Note the time that the block takes."""
        begin = time.monotonic()
        yield
        if self.on:
            self.steps[-1].append((action, begin, time.monotonic()))


class Trace:
    """The measured timelines of the training steps inside a `with` block.

    Args:
        clock: notes the actions of this rank.
        messages: to the other stages.
        stages: the ranks of the pipeline.

    Attributes:
        timelines: one for each step, the same on all stages; there after the block.
    """

    def __init__(self, clock: Clock, messages: PointToPoint, stages: ProcessSet) -> None:
        self._clock, self._messages, self._stages = clock, messages, stages
        self.timelines: list[Timeline] = []

    def __enter__(self) -> Trace:
        self._clock.on, self._clock.steps = True, []
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._clock.on = False
        if error is None:
            self._gather()

    def _gather(self) -> None:
        own: tuple[list[list[Note]], float] = self._clock.steps, _ahead(self._messages)
        everyone = [own]
        if self._messages.size > 1:
            everyone = allgather_object(own, name="hvdkit.trace", process_set=self._stages)
        for step in range(len(self._clock.steps)):
            spans = [
                Span(stage, action, begin - ahead, end - ahead)
                for stage, (steps, ahead) in enumerate(everyone)
                for action, begin, end in steps[step]
            ]
            self.timelines.append(Timeline("measured", self._messages.size, spans))


def _ahead(messages: PointToPoint) -> float:
    """How far this rank's clock is ahead of the first stage's, in seconds.

    The ranks of a host share a clock. Others ask the first stage for its time, which they take
    for that of the middle of the fastest round trip (Cristian, 1989).
    """
    if messages.size == 1:
        return 0.0
    name = np.frombuffer(socket.gethostname().encode().ljust(256)[:256], np.uint8).copy()
    with messages.during("the comparison of the stages' clocks"):
        if messages.index == 0:
            for stage in range(1, messages.size):
                _answer(messages, stage, name)
            messages.flush()
            return 0.0
        ahead = _ask(messages, name)
        messages.flush()
        return ahead


def _answer(messages: PointToPoint, stage: int, name: np.ndarray) -> None:
    messages.send(name, stage, _TAG)
    for _ in range(_ROUNDS):
        messages.receive(np.empty(1, np.float64), stage, _TAG)
        messages.send(np.array([time.monotonic()]), stage, _TAG)


def _ask(messages: PointToPoint, name: np.ndarray) -> float:
    same_host = np.array_equal(messages.receive(np.empty_like(name), 0, _TAG), name)
    trips = []
    for _ in range(_ROUNDS):
        begin = time.monotonic()
        messages.send(np.array([begin]), 0, _TAG)
        answer = messages.receive(np.empty(1, np.float64), 0, _TAG)
        end = time.monotonic()
        trips.append((end - begin, (begin + end) / 2 - float(answer[0])))
    return 0.0 if same_host else min(trips)[1]
