"""Where the time of a step goes, from the moments that were noted in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hvdkit.watch.moments import Moments, Span


@dataclass(frozen=True)
class Split:
    """The seconds of one step of one rank; they add up to `step`.

    Attributes:
        step: from the end of the step before it to its end.
        data: until it had its batch.
        collectives: in which nothing but collectives went on, as far as can be told: all of those
            that the step waits for, and of those beside the backward pass what is left after it.
        compute: from the batch on, without these.
        rest: before and after: callbacks, and Keras itself.
    """

    step: float
    data: float
    collectives: float
    compute: float
    rest: float


def split(moments: Moments, last: float, begun: float, done: float) -> Split | None:
    """Where the time of a step went.

    Args:
        moments: what this rank had noted at its end.
        last: when the step before it was done, in seconds since 1970.
        begun: when Keras began it.
        done: when it was done.

    Returns:
        The split; None if the step did not note when it had its batch, as one that XLA compiles as
        a whole.
    """
    # What notes a moment may wait for a thread, longer than a small step takes.
    batch = min(moments.batch, moments.gradients) if moments.gradients >= begun else moments.batch
    if not begun <= batch <= done:
        return None
    waiting = seconds_in(moments, last, done)
    inside = seconds_in(moments, batch, done)
    return Split(
        step=done - last,
        data=batch - begun,
        collectives=waiting,
        compute=max(0.0, done - batch - inside),
        rest=max(0.0, begun - last - (waiting - inside)),
    )


def seconds_in(moments: Moments, begin: float, end: float) -> float:
    """How long nothing but collectives went on between two times."""
    spans = [*moments.collectives, *moments.spans]
    alone = (_alone(span, moments.gradients) for span in spans)
    return _covered((max(b, begin), min(e, end)) for b, e in alone)


def _alone(span: Span, gradients: float) -> tuple[float, float]:
    """When a collective has nothing beside it: the backward pass ends at `gradients`."""
    return max(span.begun, gradients) if span.beside else span.begun, span.done


def _covered(intervals: Iterable[tuple[float, float]]) -> float:
    """The length of what some intervals cover together; those that end before they begin do not."""
    total, until = 0.0, float("-inf")
    for begin, end in sorted(interval for interval in intervals if interval[1] > interval[0]):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def mean(splits: Sequence[Split]) -> Split:
    """The mean of some steps."""
    count = len(splits)
    return Split(
        step=sum(s.step for s in splits) / count,
        data=sum(s.data for s in splits) / count,
        collectives=sum(s.collectives for s in splits) / count,
        compute=sum(s.compute for s in splits) / count,
        rest=sum(s.rest for s in splits) / count,
    )
