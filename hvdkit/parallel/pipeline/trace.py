"""Measuring when each stage does what."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from types import TracebackType

from hvdkit.engine import ProcessSet, allgather_object, topology
from hvdkit.engine.clocks import clocks_ahead
from hvdkit.schedules.actions import Action
from hvdkit.schedules.timeline import Span, Timeline
from hvdkit.watch.slices import STAGE, notes

Note = tuple[Action, float, float]


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
        with notes.times(STAGE, str(action)):
            yield
        if self.on:
            self.steps[-1].append((action, begin, time.monotonic()))


class Trace:
    """The measured timelines of the training steps inside a `with` block.

    Args:
        clock: notes the actions of this rank.
        stages: the ranks of the pipeline.

    Attributes:
        timelines: one for each step, the same on all stages; there after the block.
    """

    def __init__(self, clock: Clock, stages: ProcessSet) -> None:
        self._clock, self._stages = clock, stages
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
        own, count = self._clock.steps, topology.process_set_size(self._stages)
        everyone = [own]
        if count > 1:
            everyone = allgather_object(own, name="hvdkit.trace", process_set=self._stages)
        ahead = [each.seconds for each in clocks_ahead(self._stages, time.monotonic)]
        for step in range(len(own)):
            spans = [
                Span(stage, action, begin - ahead[stage], end - ahead[stage])
                for stage, steps in enumerate(everyone)
                for action, begin, end in steps[step]
            ]
            self.timelines.append(Timeline("measured", count, spans))
