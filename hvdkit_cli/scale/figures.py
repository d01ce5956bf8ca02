"""The figures of one start, from what its ranks have written."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hvdkit.monitoring.measurement import Answer, Use
from hvdkit.monitoring.sample import Job, Sample
from hvdkit.monitoring.sinks.lines import read_lines
from hvdkit_cli.errors import CommandError

# What a step consists of: figures of samples that add up to its seconds.
PARTS: Mapping[str, str] = {
    "compute": "compute_seconds",
    "waiting for ranks": "waiting_for_ranks_seconds",
    "exchange": "exchange_seconds",
    "waiting for data": "waiting_for_data_seconds",
    "rest": "rest_seconds",
}
_SPEEDS = ("rows_per_second", "tokens_per_second")
_OF_A_SECOND = ("model_flops_share", "watts")
_OF_A_STEP = ("step_seconds", *PARTS.values(), "sent_bytes", "joules_per_step")
_THE_MOST = ("host_memory_peak_bytes", "device_memory_peak_bytes")


@dataclass(frozen=True)
class Figures:
    """What was measured in one start.

    Attributes:
        ranks: how many.
        values: figures of the job over the measured steps, by the names of samples; those that are
            not known are left out.
        uses: what each rank has used of its host.
        left_out: callbacks of the script that were left out.
    """

    ranks: int
    values: Mapping[str, float]
    uses: Sequence[Use]
    left_out: Sequence[str]

    @property
    def speed(self) -> float:
        """Rows a second."""
        return self.values["rows_per_second"]

    @property
    def seconds(self) -> float:
        """How long the measured steps took."""
        return max(use.seconds for use in self.uses)

    @property
    def rows_of_a_step(self) -> float:
        """Of all ranks."""
        return self.speed * self.values["step_seconds"]

    @property
    def parts(self) -> dict[str, float] | None:
        """Seconds of a step by what they go to; None where that is not known."""
        if not all(name in self.values for name in PARTS.values()):
            return None
        return {part: self.values[name] for part, name in PARTS.items()}

    @property
    def cores(self) -> dict[str, float]:
        """Cores of each host that its ranks may use at a time; a container may have half a one."""
        found = {}
        for host, uses in self._by_host().items():
            cores = len({core for use in uses for core in use.cores})
            found[host] = min([float(cores), *(use.quota for use in uses if use.quota)])
        return found

    @property
    def cores_busy(self) -> float:
        """The share of these cores' time that the ranks have used."""
        used = sum(use.cpu_seconds / use.seconds for use in self.uses)
        return used / sum(self.cores.values())

    @property
    def devices_busy(self) -> float | None:
        """The share of time in which the GPUs were busy; None where one does not tell."""
        shares = [use.devices_busy for use in self.uses if use.devices_busy is not None]
        return sum(shares) / len(shares) if len(shares) == len(self.uses) else None

    @property
    def crowded(self) -> str | None:
        """What ranks of a host share, that would be each one's own elsewhere; None for nothing."""
        cores = self.cores
        for host, uses in self._by_host().items():
            devices = [device for use in uses for device in use.devices]
            if len(set(devices)) < len(devices):
                count = len(set(devices))
                return f"{len(uses)} ranks share the {count} GPU{'s' * (count > 1)} of host {host}"
            if len(uses) > max(1, cores[host]):
                return f"{len(uses)} ranks share the {in_cores(cores[host])} of host {host}"
        return None

    @property
    def hosts(self) -> int:
        """How many."""
        return len(self._by_host())

    @property
    def links(self) -> list[tuple[float, float | None]]:
        """Bytes a second that each host has sent to others, and can send; of several hosts only."""
        if self.hosts == 1:
            return []
        return [
            (use.network.sent_bytes / use.seconds, use.network.bytes_per_second)
            for use in self.uses
            if use.network is not None
        ]

    def _by_host(self) -> dict[str, list[Use]]:
        found: dict[str, list[Use]] = {}
        for use in self.uses:
            found.setdefault(use.host, []).append(use)
        return found


def averaged(starts: Sequence[Figures]) -> Figures:
    """The means of several starts with the same ranks."""
    names = set.intersection(*(set(each.values) for each in starts))
    values = {name: statistics.fmean(each.values[name] for each in starts) for name in names}
    return replace(starts[0], values=values)


def in_cores(count: float) -> str:
    """A number of cores in words."""
    return f"{count:.3g} core{'' if count == 1 else 's'}"


def figures_of(ranks: int, folder: Path, answer: Answer, warm_up: int) -> Figures:
    """The figures in the folder of a start.

    Args:
        ranks: how many.
        folder: has the samples.
        answer: what the ranks have said.
        warm_up: steps that do not count.

    Raises:
        CommandError: there are no samples of the measured steps, they do not tell how many rows
            these had, or they are not of all ranks.
    """
    try:
        job, samples = _measured_samples(folder, warm_up)
    except OSError as error:
        raise CommandError(
            f"The samples in {folder} can't be read: {error.strerror}.", "look at its output.log"
        ) from error
    if job is not None and job.ranks != ranks:
        raise CommandError(
            f"The model that was measured was trained by {job.ranks} ranks together, and not by "
            f"{ranks}.",
            "let all ranks train it together: hvd.DistributedOptimizer(...)",
        )
    values = {
        **{name: _speed(samples, name) for name in _SPEEDS},
        **{name: _mean(samples, name, _seconds) for name in _OF_A_SECOND},
        **{name: _mean(samples, name, _steps) for name in _OF_A_STEP},
        **{name: _most(samples, name) for name in _THE_MOST},
    }
    known = {name: value for name, value in values.items() if value is not None}
    if "rows_per_second" not in known or "step_seconds" not in known:
        raise CommandError(
            f"The samples in {folder} do not tell how many rows a second were trained "
            "on, so there is no speed to compare.",
            "look at its output.log; data of hvd.shard, arrays and tf.data tell their rows",
        )
    return Figures(ranks, known, answer.uses, answer.left_out)


def _measured_samples(folder: Path, warm_up: int) -> tuple[Job | None, list[Sample]]:
    """The last `fit`, and its samples that hold no step of the warm-up, in their order."""
    found: list[Sample] = []
    job, first = None, warm_up
    for each in read_lines(folder):
        if isinstance(each, Job):
            found, job, first = [], each, each.resumed_at + warm_up
        elif isinstance(each, Sample) and each.steps and each.step - each.steps >= first:
            found.append(each)
    return job, found


def _seconds(sample: Sample) -> float:
    return sample.steps * sample.values.get("step_seconds", 0.0)


def _steps(sample: Sample) -> float:
    return sample.steps


def _speed(samples: Sequence[Sample], name: str) -> float | None:
    """What all ranks have done in all samples, by the time that these took."""
    done = [_done(sample, name) for sample in samples]
    known = [each for each in done if each is not None]
    seconds = sum(map(_seconds, samples))
    return sum(known) / seconds if len(known) == len(done) and seconds > 0 else None


def _done(sample: Sample, name: str) -> float | None:
    """Rows, or the like, of all ranks in a sample."""
    of_job = sample.values.get(name)
    if of_job is None:
        return None
    ranks = [rank.values for rank in sample.ranks if name in rank.values]
    if not ranks:
        return of_job * _seconds(sample)
    # Each by its own time: a rank may count a wait here that another has between two epochs. Those
    # of one replica of the model read the same rows.
    own = sum(values[name] * values["step_seconds"] for values in ranks)
    return own * sample.steps * of_job / sum(values[name] for values in ranks)


def _mean(samples: Sequence[Sample], name: str, weight: Callable[[Sample], float]) -> float | None:
    pairs = [(weight(s), s.values[name]) for s in samples if name in s.values]
    total = sum(each for each, _ in pairs)
    if len(pairs) < len(samples) or not total > 0:
        return None
    mean = sum(each * value for each, value in pairs) / total
    return mean if math.isfinite(mean) else None


def _most(samples: Sequence[Sample], name: str) -> float | None:
    return max((s.values[name] for s in samples if name in s.values), default=None)
