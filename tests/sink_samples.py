"""Figures of a job as a monitor would give them, for the tests of what takes them."""

from __future__ import annotations

import math
import time
from typing import Any

from hvdkit.monitoring.sample import Alarm, Job, RankSample, Sample
from hvdkit.monitoring.sinks.all_sinks import Sinks

JOB = Job(
    2, ["one", "two"], {"optimizer": "Adam", "learning_rate": 0.5, "epochs": 3, "model": "a|b"}
)
ALARM = Alarm("straggler", "Rank 1 on two keeps the others waiting.", 20, 1, "two")
NOW = time.time()


def sample(step: int, loss: float = 0.5, ranks: int = 2, at: float = NOW) -> Sample:
    """Ten steps of ranks that differ."""
    values = {"loss": loss, "learning_rate": 0.5, "rows_per_second": 300.0, "watts": 90.0}
    return Sample(
        step=step,
        epoch=1,
        steps=10,
        time=at,
        values={**values, **_split(0), "model_flops_share": 0.25, "joules_per_step": 2.0},
        ranks=tuple(
            RankSample(rank, "one" if rank == 0 else "two", {"watts": 45.0, **_split(rank)})
            for rank in range(ranks)
        ),
        sent={"sum 'dense/kernel'": 4096.0},
    )


def epoch_sample(step: int, at: float = NOW) -> Sample:
    """The logs of an epoch."""
    return Sample(step, 1, 0, at, {"loss": 0.25, "val_loss": 0.75})


def _split(rank: int) -> dict[str, float]:
    return {
        "step_seconds": 0.2,
        "compute_seconds": 0.12,
        "waiting_for_ranks_seconds": 0.04 - 0.04 * rank,
        "exchange_seconds": 0.02,
        "waiting_for_data_seconds": 0.01 + 0.04 * rank,
        "rest_seconds": 0.01,
        "host_memory_bytes": 3.0 * 2**30,
        "sent_bytes": 4096.0,
    }


class Kept:
    """A sink that keeps what it gets, and fails if it is told to."""

    def __init__(self, failing: str = "", error: Exception | None = None) -> None:
        self.got: list[Any] = []
        self.failing = failing
        self.error = error or OSError(28, "No space left on device")

    def begin(self, job: Job) -> None:
        self._take("begin", job)

    def log(self, sample: Sample) -> None:
        self._take("log", sample)

    def alarm(self, alarm: Alarm) -> None:
        self._take("alarm", alarm)

    def end(self) -> None:
        self._take("end", None)

    def _take(self, method: str, what: Any) -> None:
        if method == self.failing:
            raise self.error
        self.got.append(method if what is None else what)


def run(*sinks: Any, samples: int = 2) -> None:
    """A `fit` with these sinks."""
    together = Sinks(sinks)
    together.begin(JOB)
    for number in range(1, samples + 1):
        together.log(sample(10 * number, loss=[0.5, math.nan][number % 2]))
    together.alarm(ALARM)
    together.log(epoch_sample(10 * samples))
    together.end()
