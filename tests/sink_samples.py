"""Figures of a job as a monitor would give them, for the tests of what takes them."""

from __future__ import annotations

import time

from hvdkit.monitoring.sample import Alarm, Job, RankSample, Sample

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
        ranks=[
            RankSample(rank, "one" if rank == 0 else "two", {"watts": 45.0, **_split(rank)})
            for rank in range(ranks)
        ],
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
