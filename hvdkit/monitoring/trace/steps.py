"""What a rank did in a step, from the moments that the step noted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hvdkit.monitoring.trace.profile import MAKING, OPERATIONS, Profile
from hvdkit.watch.moments import Moments, Span
from hvdkit.watch.slices import CHECKPOINTS, COLLECTIVES, STAGE, Slice

STEPS = "steps"
INPUT = "input"
PASSES = "forward and backward"
OPTIMIZER = "optimizer"
MOST_STEPS = 1000
_WAIT = "waiting for the batch"
_ALL = "forward, backward and optimizer"
TRACKS = (STEPS, INPUT, MAKING, PASSES, STAGE, OPTIMIZER, COLLECTIVES, CHECKPOINTS, OPERATIONS)


@dataclass(frozen=True)
class Step:
    """A step, or several that are done in one call.

    Attributes:
        first: its number.
        last: that of the last one.
        begin: in seconds since 1970.
        end: in seconds since 1970.
        moments: what had been noted at its end; of several steps those of the last.
        before: what had been noted at its begin.
    """

    first: int
    last: int
    begin: float
    end: float
    moments: Moments
    before: Moments

    @property
    def count(self) -> int:
        """How many there are."""
        return self.last + 1 - self.first

    @property
    def name(self) -> str:
        """As it is shown."""
        return f"step {self.last}" if self.count == 1 else f"steps {self.first}-{self.last}"


def checked_steps(steps: Any) -> tuple[int, int]:
    """The first and the last step that are to be traced.

    Raises:
        ValueError: they are none.
    """
    ok = isinstance(steps, tuple | list) and len(steps) == 2
    if not ok or not all(isinstance(s, int) and not isinstance(s, bool) for s in steps):
        raise ValueError(f"steps of hvd.trace are the first and the last one, not {steps!r}.")
    first, last = steps
    if not 1 <= first <= last:
        raise ValueError(
            f"steps of hvd.trace count from 1, and the last is not before the first: {steps!r}."
        )
    if last - first >= MOST_STEPS:
        raise ValueError(
            f"steps of hvd.trace are {MOST_STEPS} at most, or no browser shows them: {steps!r}."
        )
    return first, last


def slices_of_steps(steps: Sequence[Step], profile: Profile) -> list[Slice]:
    """What a rank did in some steps.

    Args:
        steps: the steps.
        profile: what TensorFlow did meanwhile, which tells forward and backward pass apart.

    Returns:
        Slices on the tracks of this file. What a step did not note is left out.
    """
    return [found for step in steps for found in _of_step(step, profile)]


def _of_step(step: Step, profile: Profile) -> Iterator[Slice]:
    yield Slice(STEPS, step.name, step.begin, step.end)
    yield from _of_collectives(step)
    if step.count > 1:  # which share passes among each other
        reads = profile.reads_in(step.begin, step.end)
        yield from (Slice(INPUT, _WAIT, read.begin, read.end) for read in reads)
        return
    batch, gradients = (
        moment if step.begin <= moment <= step.end else None
        for moment in (step.moments.batch, step.moments.gradients)
    )
    # A graph notes a moment when it comes to it, maybe after a later one: a profile is closer.
    reads = profile.reads_in(step.begin, gradients or step.end)
    there = max((read.end for read in reads), default=batch and min(batch, gradients or batch))
    if there is not None:
        yield Slice(INPUT, _WAIT, step.begin, there)
    if batch is not None or gradients is not None:
        yield from _passes(step, there or step.begin, gradients, profile)
    elif there is not None:  # XLA has compiled it, and names mean nothing
        yield Slice(PASSES, _ALL, there, step.end)


def _passes(step: Step, begin: float, noted: float | None, profile: Profile) -> Iterator[Slice]:
    """Forward and backward pass, and the optimizer.

    Args:
        step: the step.
        begin: when they began.
        noted: when the step noted that all gradients were there.
        profile: what TensorFlow did.
    """
    end = profile.end_in(begin, step.end) or step.end
    gradients = profile.gradients_in(begin, noted or step.end) or noted
    if gradients is None:
        yield Slice(PASSES, _ALL, begin, end)
        return
    split = profile.split_of(begin, gradients)
    if split is None:
        yield Slice(PASSES, "forward and backward", begin, gradients)
    else:
        yield Slice(PASSES, "forward", begin, split)
        yield Slice(PASSES, "backward", split, gradients)
    exchanged = gradients if noted is None else step.moments.exchanged
    if gradients <= exchanged <= step.end:
        yield Slice(OPTIMIZER, "optimizer", exchanged, end if end > exchanged else step.end)


def _of_collectives(step: Step) -> Iterator[Slice]:
    """The collectives of its graph, each the last time that it ran in it."""
    before = [span.sent for span in step.before.collectives]
    before += [0.0] * (len(step.moments.collectives) - len(before))
    for span, sent in zip(step.moments.collectives, before, strict=True):
        if step.begin <= span.begun <= span.done <= step.end:
            yield collective(span, (span.sent - sent) / step.count)


def collective(span: Span, sent: float) -> Slice:
    """A collective on its track.

    Args:
        span: the collective.
        sent: bytes that this rank gave in the step.
    """
    details = {"bytes": int(sent), "beside the backward pass": span.beside}
    return Slice(COLLECTIVES, span.name, span.begun, span.done, details)
