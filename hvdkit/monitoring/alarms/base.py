"""What looks at samples, and how long something has to be so before it is said."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from typing import Protocol

from hvdkit.monitoring.sample import Alarm, RankSample, Sample

# More ranks than these make a message longer, and no clearer.
_RANKS_SHOWN = 4


class Lookout(Protocol):
    """Looks at each sample of a job, on rank 0 only, and remembers what it needs.

    One lookout sees one `fit`: a second one begins with a fresh copy.

    Example:
        >>> class Hot:
        ...     def look(self, sample):
        ...         if sample.values.get("loss", 0) < 100:
        ...             return None
        ...         return hvd.monitoring.Alarm("hot", "the loss is above 100.", sample.step)
        >>> hvd.callbacks.Monitor(alarms=[Hot()])
    """

    def look(self, sample: Sample) -> Alarm | None:
        """Look at a sample.

        Args:
            sample: the next one.

        Returns:
            What somebody should look at, once: not again with each sample in which it lasts.
        """
        ...


class Lasting:
    """Says once that something lasts: when it was so in `samples` of the last `of` samples.

    It is said again only after it has not been so in `well` samples on end. That it is over is
    not said.

    Args:
        samples: in how many samples it has to be so.
        of: of how many.
        well: how many samples without it end it; `of` if not given.

    Attributes:
        since: after which step it was first so, of the samples that count.
    """

    def __init__(self, samples: int, of: int, well: int | None = None) -> None:
        self.since = 0
        self._samples = samples
        self._well = of if well is None else well
        self._recent: deque[tuple[bool, int]] = deque(maxlen=of)
        self._lasts = False
        self._well_for = 0

    def begins(self, sample: Sample, is_so: bool) -> bool:
        """Take the next sample; returns whether it is time to say so."""
        self._well_for = 0 if is_so else self._well_for + 1
        if self._lasts:
            if self._well_for >= self._well:
                self._lasts = False
                self._recent.clear()
            return False
        self._recent.append((is_so, sample.step - sample.steps))
        since = [step for was_so, step in self._recent if was_so]
        self._lasts = len(since) >= self._samples
        if self._lasts:
            self.since = since[0]
        return self._lasts


class LastingOfRanks:
    """The same of each rank.

    Args:
        samples: in how many samples it has to be so of a rank.
        of: of how many.
    """

    def __init__(self, samples: int, of: int) -> None:
        self._samples, self._of = samples, of
        self._ranks: dict[tuple[int, str], Lasting] = {}

    def begin(self, sample: Sample, are_so: Collection[int]) -> list[RankSample]:
        """Take the next sample; returns the ranks of which it is time to say so.

        Args:
            sample: the sample.
            are_so: the ranks of which it is so.
        """
        keys = {rank.rank: (rank.rank, rank.host) for rank in sample.ranks}
        # Ranks that have left are forgotten; what comes with their number is another process.
        self._ranks = {
            key: self._ranks.get(key) or Lasting(self._samples, self._of) for key in keys.values()
        }
        return [
            rank
            for rank in sample.ranks
            if self._ranks[keys[rank.rank]].begins(sample, rank.rank in are_so)
        ]

    def since(self, ranks: Sequence[RankSample]) -> int:
        """After which step it was first so of one of some ranks."""
        return min(self._ranks[rank.rank, rank.host].since for rank in ranks)


def named(ranks: Sequence[RankSample]) -> str:
    """Ranks and their hosts in words.

    Example:
        >>> named([RankSample(3, "node2", {})])
        'rank 3 (node2)'
    """
    names = [f"{rank.rank} ({rank.host})" for rank in ranks]
    more = len(names) - _RANKS_SHOWN
    if more > 0:
        names = [*names[:_RANKS_SHOWN], f"{more} more"]
    listed = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    return f"rank{'s' if len(ranks) > 1 else ''} {listed}"


def alarm_of(kind: str, text: str, sample: Sample, ranks: Sequence[RankSample]) -> Alarm:
    """An alarm about some ranks, which names a rank or a host only if it is the only one."""
    hosts = {rank.host for rank in ranks}
    return Alarm(
        kind,
        text,
        sample.step,
        rank=ranks[0].rank if len(ranks) == 1 else None,
        host=hosts.pop() if len(hosts) == 1 else None,
    )


def check_count(whose: str, name: str, value: object, least: int = 1) -> None:
    """Refuse what is no whole number of samples.

    Args:
        whose: the class that was given it.
        name: the argument.
        value: what was given.
        least: the smallest that is taken.

    Raises:
        ValueError: it is none, or too small.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(
            f"{whose}({name}={value!r}): {name} is a number of samples, at least {least}."
        )


def check_samples(whose: str, samples: int, of: int) -> None:
    """Refuse numbers of samples that do not fit.

    Raises:
        ValueError: one is no number of samples, or there are more `samples` than `of`.
    """
    check_count(whose, "samples", samples)
    check_count(whose, "of", of)
    if samples > of:
        raise ValueError(
            f"{whose}(samples={samples}, of={of}): it can't be so in {samples} of {of} samples; "
            "samples is at most of."
        )


def check_share(whose: str, name: str, value: object) -> None:
    """Refuse what is no share.

    Raises:
        ValueError: it is no number between 0 and 1, both excluded.
    """
    if not isinstance(value, (int, float)) or not 0 < value < 1:
        raise ValueError(f"{whose}({name}={value!r}): {name} is a share, above 0 and below 1.")
