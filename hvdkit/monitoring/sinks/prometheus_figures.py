"""A job's figures as Prometheus's metrics."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from hvdkit.monitoring.sample import QUANTITIES, Alarm, Job, Sample
from hvdkit.monitoring.sinks.wording import logs_of

# Where Prometheus's rules for names ask for another one.
_NAMES = {
    "sent_bytes": "step_sent_bytes",
    "model_flops_share": "model_flops_ratio",
    "watts": "power_watts",
    "joules_per_step": "step_energy_joules",
}
_UNITS = ("seconds", "bytes", "watts", "joules", "ratio")


class Figures(Collector):
    """The last figures; a server's threads read them.

    Args:
        job: what is monitored.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._steps: Sample | None = None
        self._epoch: Sample | None = None
        self._alarms: Counter[str] = Counter()

    def take(self, sample: Sample) -> None:
        """These are the last ones from now on."""
        if sample.steps:
            self._steps = sample
        else:
            self._epoch = sample

    def count(self, alarm: Alarm) -> None:
        """Count an alarm."""
        self._alarms = self._alarms + Counter([alarm.kind])  # a new one: others read the old one

    def describe(self) -> Iterable[Metric]:
        """Metrics come and go, so none is promised."""
        return []

    def collect(self) -> Iterable[Metric]:
        """The metrics as they are now."""
        job, steps, epoch = self._job, self._steps, self._epoch
        known = {re.sub(r"\W", "_", key): str(each) for key, each in job.parameters.items()}
        yield InfoMetricFamily("hvdkit_job", "What is trained, and with what.", value=known)
        yield GaugeMetricFamily("hvdkit_ranks", "Ranks of the job.", value=job.ranks)
        alarms = CounterMetricFamily("hvdkit_alarms", "Alarms so far.", labels=["kind"])
        for kind, count in self._alarms.items():
            alarms.add_metric([kind], count)
        yield alarms
        if epoch is not None:
            meaning = "What fit logged at the end of the last epoch, over all ranks."
            yield _labelled("hvdkit_epoch_log", meaning, "name", epoch.values)
        if steps is None:
            return
        yield CounterMetricFamily("hvdkit_steps", "Steps of the training so far.", steps.step)
        yield GaugeMetricFamily("hvdkit_epoch", "The epoch, from 1.", steps.epoch)
        yield GaugeMetricFamily(
            "hvdkit_last_sample_timestamp_seconds", "When the figures were made.", steps.time
        )
        yield _labelled("hvdkit_log", "What fit logs, over all ranks.", "name", logs_of(steps))
        for name, quantity in QUANTITIES.items():
            if name in steps.values:
                yield GaugeMetricFamily(
                    f"hvdkit_{_NAMES.get(name, name)}",
                    f"{_sentence(quantity.meaning)} Of the job.",
                    steps.values[name],
                    unit=_unit(name),
                )
            yield from self._of_ranks(name, quantity.meaning, steps)
        meaning = "What rank 0 gives to a collective in a step."
        name = "hvdkit_collective_sent_bytes"
        yield _labelled(name, meaning, "collective", steps.sent, "bytes")

    def _of_ranks(self, name: str, meaning: str, sample: Sample) -> Iterable[Metric]:
        having = [rank for rank in sample.ranks if name in rank.values]
        if not having:
            return
        metric = GaugeMetricFamily(
            f"hvdkit_rank_{_NAMES.get(name, name)}",
            f"{_sentence(meaning)} Of a rank.",
            labels=["rank", "host"],
            unit=_unit(name),
        )
        for rank in having:
            metric.add_metric([str(rank.rank), rank.host], rank.values[name])
        yield metric


def _labelled(
    name: str, meaning: str, label: str, values: Mapping[str, float], unit: str = ""
) -> Metric:
    metric = GaugeMetricFamily(name, meaning, labels=[label], unit=unit)
    for key, value in values.items():
        metric.add_metric([key], value)
    return metric


def _unit(name: str) -> str:
    last = _NAMES.get(name, name).rpartition("_")[2]
    return last if last in _UNITS else ""


def _sentence(meaning: str) -> str:
    return f"{meaning[0].upper()}{meaning[1:]}."
