"""A rank that the others wait for."""

from __future__ import annotations

import math
from statistics import median

from hvdkit.monitoring.alarms.base import (
    LastingOfRanks,
    alarm_of,
    check_samples,
    check_share,
    named,
)
from hvdkit.monitoring.sample import Alarm, RankSample, Sample

_WAITING = "waiting_for_ranks_seconds"
# A spread of normally distributed numbers is 1.4826 times their median absolute deviation.
_SPREADS = 2 * 1.4826
# Where a step's time may go, and what to do about it.
_CAUSES = {
    "compute_seconds": "computes for {} a step longer: see what else runs on its host, and whether "
    "its device is slower, hot or throttled.",
    "waiting_for_data_seconds": "waits for data for {} a step longer: see how it reads its data.",
    "rest_seconds": "spends {} a step longer in callbacks and all else: see what only it does.",
}


class Straggler:
    """A rank that the others wait for: "straggler".

    A rank waits in collectives until the slowest has come, so the slowest waits least. A rank is
    late in a sample if it waits less than the others by more than `share` of a step (the step
    would be so much shorter without it), and by more than two spreads of the others, by median
    and median absolute deviation of their waiting times. With two ranks the other's waiting time
    has no spread, so that the share alone decides. It is told of when it was late in `samples` of
    the last `of` samples.

    Where half of the ranks or fewer are slow, such as those of one host, all of them are told of;
    where most are, none is, for then the few wait, and nobody is odd. Stages of a pipeline wait
    for each other by design, so the one with the most work may be told of, rightly.

    Args:
        share: how much of a step the others have to wait longer, above 0 and below 1.
        samples: in how many samples a rank has to be late.
        of: of how many. Over few steps (`Monitor(every=1)`) waiting times are noisy: take more.

    Raises:
        ValueError: a share that is none, or numbers of samples that do not fit.

    Example:
        >>> hvd.callbacks.Monitor(alarms=[hvd.monitoring.Straggler(share=0.2)])
    """

    def __init__(self, share: float = 0.1, samples: int = 8, of: int = 10) -> None:
        check_share("Straggler", "share", share)
        check_samples("Straggler", samples, of)
        self._share = share
        self._lasting = LastingOfRanks(samples, of)

    def look(self, sample: Sample) -> Alarm | None:
        """Look at a sample; those without waiting times of two ranks or more say nothing."""
        if not _tells(sample):
            return None
        step = median(rank.values["step_seconds"] for rank in sample.ranks)
        late = {
            rank.rank
            for rank in sample.ranks
            if _is_late(rank, _others(rank, sample), self._share * step)
        }
        ranks = self._lasting.begin(sample, late)
        if not ranks:
            return None
        waiting = median(_lag(rank, _others(rank, sample)) for rank in ranks)
        text = (
            f"{named(ranks)} {'keeps' if len(ranks) == 1 else 'keep'} the other ranks waiting "
            f"since step {self._lasting.since(ranks)}, now for {100 * waiting / step:.0f} % of "
            f"each step; {_cause(ranks[0], _others(ranks[0], sample, late))}"
        )
        return alarm_of("straggler", text, sample, ranks)


def _tells(sample: Sample) -> bool:
    return len(sample.ranks) > 1 and all(
        math.isfinite(rank.values.get(_WAITING, math.nan))
        and rank.values.get("step_seconds", 0.0) > 0
        for rank in sample.ranks
    )


def _others(
    rank: RankSample, sample: Sample, but: set[int] | frozenset[int] = frozenset()
) -> list[RankSample]:
    return [other for other in sample.ranks if other.rank not in but | {rank.rank}]


def _lag(rank: RankSample, others: list[RankSample]) -> float:
    """How many seconds of a step the others wait longer."""
    return median(other.values[_WAITING] for other in others) - rank.values[_WAITING]


def _is_late(rank: RankSample, others: list[RankSample], least: float) -> bool:
    lag = _lag(rank, others)
    if lag < least:
        return False
    waits = [other.values[_WAITING] for other in others]
    middle = median(waits)
    return lag > _SPREADS * median(abs(wait - middle) for wait in waits)


def _cause(rank: RankSample, others: list[RankSample]) -> str:
    """Where the rank's time goes, compared with those who wait."""
    longer = {
        name: rank.values[name] - median(other.values[name] for other in others)
        for name in _CAUSES
        if all(name in each.values for each in (rank, *others))
    }
    if not others or not longer or max(longer.values()) <= 0:
        return "see what else runs on its host."
    most = max(longer, key=lambda name: longer[name])
    return f"{'rank ' + str(rank.rank)} " + _CAUSES[most].format(f"{longer[most]:.3g} s")
