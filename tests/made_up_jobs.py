"""Samples of jobs that are made up, for alarms to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from hvdkit.monitoring.alarms.base import Lookout
from hvdkit.monitoring.sample import Alarm, RankSample, Sample

STEPS = 10
STEP_SECONDS = 0.25
Noise = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def normal(spread: float) -> Noise:
    return lambda random, shape: np.clip(random.normal(1, spread, shape), 0.2, None)


def with_pauses(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Five percent of noise, and every hundredth step takes five times as long."""
    return random.normal(1, 0.05, shape) + 4 * (random.random(shape) < 0.01)


def skewed(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return random.lognormal(0, 0.2, shape)


def job(
    ranks: int,
    samples: int,
    noise: Noise,
    slow: dict[int, float] | None = None,
    slow_at: int = 0,
    data: dict[int, float] | None = None,
    steps: int = STEPS,
    seed: int = 7,
) -> Iterator[Sample]:
    """Samples of ranks that compute, and wait for the slowest in each step."""
    random = np.random.default_rng(seed)
    for i in range(samples):
        seconds = STEP_SECONDS * noise(random, (steps, ranks))
        if i >= slow_at:
            seconds *= [(slow or {}).get(rank, 1.0) for rank in range(ranks)]
        reading = np.array([(data or {}).get(rank, 0.0) for rank in range(ranks)])
        reading = reading * STEP_SECONDS if i >= slow_at else np.zeros(ranks)
        busy = seconds + reading
        waits = (busy.max(axis=1, keepdims=True) - busy).mean(axis=0)
        step = busy.max(axis=1).mean() + 0.02
        own = seconds.mean(axis=0)
        yield Sample(
            step=(i + 1) * steps,
            epoch=1,
            steps=steps,
            time=1e9 + (i + 1) * steps * step,
            values={"rows_per_second": ranks * 32 / step, "step_seconds": step, "loss": 1.0},
            ranks=[
                RankSample(
                    rank,
                    f"node{rank // 4}",
                    {
                        "step_seconds": step,
                        "compute_seconds": own[rank],
                        "waiting_for_data_seconds": reading[rank],
                        "waiting_for_ranks_seconds": waits[rank],
                    },
                )
                for rank in range(ranks)
            ],
        )


def of_losses(losses: list[float] | np.ndarray, steps: int = STEPS) -> Iterator[Sample]:
    for i, loss in enumerate(losses):
        yield Sample((i + 1) * STEPS, 1, steps, 1e9 + i, {"loss": float(loss)})


def seen(lookout: Lookout, samples: Iterator[Sample]) -> list[Alarm]:
    return [alarm for sample in samples if (alarm := lookout.look(sample)) is not None]
