"""When each stage did what: measured, or simulated."""

from __future__ import annotations

from dataclasses import dataclass

from hvdkit.schedules.actions import Action


@dataclass(frozen=True)
class Span:
    """One action of a stage.

    Attributes:
        stage: the stage.
        action: what it did.
        start: when it began, in seconds; without the time it waited for its input.
        end: when it was done, in seconds.
    """

    stage: int
    action: Action
    start: float
    end: float


@dataclass(frozen=True)
class Timeline:
    """The actions of all stages in one step.

    Attributes:
        kind: "measured" or "simulated".
        stages: number of stages.
        spans: the actions, in the order of the stages and of each stage's time.
    """

    kind: str
    stages: int
    spans: list[Span]

    @property
    def start(self) -> float:
        """When the first action began, in seconds."""
        return min(span.start for span in self.spans)

    @property
    def duration(self) -> float:
        """From the begin of the first action to the end of the last, in seconds."""
        return max(span.end for span in self.spans) - self.start

    @property
    def bubble(self) -> float:
        """The part of the stages' time in which they ran no action, 0 to 1."""
        busy = sum(span.end - span.start for span in self.spans)
        return 1.0 - busy / (self.stages * self.duration)
