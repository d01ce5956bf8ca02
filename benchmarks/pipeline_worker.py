"""One stage of the job that benchmarks/pipeline.py measures."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np

import hvdkit as hvd
from hvdkit.parallel import schedules
from hvdkit.schedules.actions import Backward, Forward
from hvdkit.schedules.gantt import draw
from hvdkit.schedules.timeline import Timeline

LAYERS = 8
WARM_UP, STEPS = 2, 7
SCHEDULES: tuple[schedules.Schedule, ...] = (
    schedules.GPipe(),
    schedules.OneForwardOneBackward(),
    schedules.Interleaved(2),
)


def measure(
    schedule: schedules.Schedule, micro_batches: int, width: int, rows: int, pictures: str
) -> dict[str, Any]:
    """The median step of some, as numbers, and as a picture if there is a folder for it."""

    def build() -> keras.Model:
        layers = [keras.layers.Dense(width, activation="relu") for _ in range(LAYERS)]
        return keras.Sequential([keras.Input((width,)), *layers])

    model = hvd.parallel.PipelineModel(build, micro_batches=micro_batches, schedule=schedule)
    model.compile(keras.optimizers.SGD(0.01), "mse")
    x = np.random.default_rng(0).normal(size=(rows * micro_batches, width)).astype("float32")
    for _ in range(WARM_UP):
        model.train_on_batch(x, x)
    with model.trace() as trace:
        for _ in range(STEPS):
            model.train_on_batch(x, x)
    median = sorted(trace.timelines, key=lambda timeline: timeline.duration)[STEPS // 2]
    if pictures and hvd.rank() == 0:
        draw(median, Path(pictures) / f"{type(schedule).__name__}-{micro_batches}.png")
    return {
        "schedule": repr(schedule),
        "micro_batches": micro_batches,
        "milliseconds": 1e3 * median.duration,
        "forward": _median_seconds(median, Forward),
        "backward": _median_seconds(median, Backward),
        "bubble": median.bubble,
        "theory": schedules.bubble(schedule, hvd.size(), micro_batches),
        "kept": model.kept,
    }


def _median_seconds(timeline: Timeline, kind: type[Forward] | type[Backward]) -> float:
    spans = [span for span in timeline.spans if isinstance(span.action, kind)]
    return statistics.median(span.end - span.start for span in spans)


def main(width: int, rows: int, pictures: str) -> None:
    """Measure all; rank 0 prints."""
    hvd.init()
    hvd.set_mesh(hvd.Mesh(pipeline=hvd.size()))
    hvd.set_random_seed(1)
    results = [
        measure(schedule, factor * hvd.size(), width, rows, pictures)
        for schedule in SCHEDULES
        for factor in (1, 2, 4)
    ]
    if hvd.rank() == 0:
        sys.stdout.write(f"PIPELINE {json.dumps({'results': results})}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
