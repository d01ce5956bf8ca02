"""Data that does not keep up."""

from __future__ import annotations

from statistics import fmean

from hvdkit.monitoring.alarms.base import (
    Lasting,
    LastingOfRanks,
    alarm_of,
    check_samples,
    check_share,
    named,
)
from hvdkit.monitoring.sample import Alarm, RankSample, Sample

_WAITING = "waiting_for_data_seconds"


class SlowData:
    """Data that does not keep up: "data".

    It is told of a rank that waited for the next batch for more than `share` of its steps in
    `samples` of the last `of` samples.

    Args:
        share: how much of a step may be waiting for data, above 0 and below 1.
        samples: in how many samples it has to be more.
        of: of how many.

    Raises:
        ValueError: a share that is none, or numbers of samples that do not fit.

    Example:
        >>> hvd.callbacks.Monitor(alarms=[hvd.monitoring.SlowData(share=0.05)])
    """

    def __init__(self, share: float = 0.2, samples: int = 8, of: int = 10) -> None:
        check_share("SlowData", "share", share)
        check_samples("SlowData", samples, of)
        self._share = share
        self._ranks = LastingOfRanks(samples, of)
        self._job = Lasting(samples, of)

    def look(self, sample: Sample) -> Alarm | None:
        """Look at a sample; those without waiting times say nothing."""
        if not sample.ranks:
            return self._look_at_job(sample)
        shares = {rank.rank: _share(rank) for rank in sample.ranks}
        slow = {rank for rank, share in shares.items() if share > self._share}
        ranks = self._ranks.begin(sample, slow) if sample.steps else []
        if not ranks:
            return None
        everybody = len(ranks) == len(sample.ranks)
        who = "all ranks" if everybody and len(ranks) > 1 else named(ranks)
        share = fmean(shares[rank.rank] for rank in ranks)
        verb = "waits" if len(ranks) == 1 else "wait"
        return alarm_of("data", _text(who, verb, share, self._ranks.since(ranks)), sample, ranks)

    def _look_at_job(self, sample: Sample) -> Alarm | None:
        share = _share(RankSample(0, "", sample.values))
        if not sample.steps or not self._job.begins(sample, share > self._share):
            return None
        return Alarm("data", _text("the job", "waits", share, self._job.since), sample.step)


def _share(rank: RankSample) -> float:
    """How much of a step is waiting for data; 0 where it is not known."""
    step = rank.values.get("step_seconds", 0.0)
    return rank.values.get(_WAITING, 0.0) / step if step > 0 else 0.0


def _text(who: str, verb: str, share: float, since: int) -> str:
    return (
        f"{who} {verb} for data since step {since}, now for {100 * share:.0f} % of each step: let "
        "the data be prepared ahead (prefetch, cache, map with num_parallel_calls), with more "
        "cores or from a faster disk."
    )
