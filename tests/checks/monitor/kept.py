"""Trainings that are monitored, and what was told of them."""

from __future__ import annotations

from typing import Any

import keras

import hvdkit as hvd
from hvdkit.monitoring.sample import Alarm, Job, Sample


class Kept:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.samples: list[Sample] = []
        self.alarms: list[Alarm] = []
        self.ends = 0

    def begin(self, job: Job) -> None:
        self.jobs.append(job)

    def log(self, sample: Sample) -> None:
        self.samples.append(sample)

    def alarm(self, alarm: Alarm) -> None:
        self.alarms.append(alarm)

    def end(self) -> None:
        self.ends += 1

    @property
    def of_steps(self) -> list[Sample]:
        return [sample for sample in self.samples if sample.steps]

    @property
    def of_epochs(self) -> list[Sample]:
        return [sample for sample in self.samples if not sample.steps]


def monitored(model: keras.Model, data: Any, every: int = 2, **fit: Any) -> Kept:
    """What is told of a `fit`; on every rank what the one that speaks was told.

    Args:
        model: what is trained.
        data: on what.
        every: of the monitor.
        **fit: of `fit`; "callbacks" come after the monitor, "before" before it.
    """
    kept = Kept()
    monitor = hvd.callbacks.Monitor(every, [kept], alarms=[])
    start = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
    callbacks = [start, *fit.pop("before", []), monitor]
    model.fit(data, verbose=0, callbacks=[*callbacks, *fit.pop("callbacks", [])], **fit)
    told = hvd.allgather_object(kept)
    speaking = [one for one in told if one.jobs]
    assert len(speaking) == 1, [len(one.jobs) for one in told]
    assert speaking[0].ends == 1
    last = monitor.sample
    assert last is not None
    same = hvd.allgather_object(repr((last.step, last.values, last.ranks)))
    assert len(set(same)) == 1, same
    return speaking[0]
