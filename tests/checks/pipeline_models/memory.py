"""The memory of activations: bounded by the number of stages with 1F1B, by nothing with GPipe."""

from __future__ import annotations

import threading

import keras
import numpy as np
import psutil
from checks.pipeline_parallel.comparison import pipeline_model

import hvdkit as hvd
from hvdkit.mesh.mesh import current_mesh
from hvdkit.parallel import schedules

WIDTH, LAYERS, ROWS = 1 << 18, 6, 4
MICRO_BATCH_BYTES = ROWS * WIDTH * LAYERS * 4


def build() -> keras.Model:
    """The first stage keeps much and computes little."""
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(WIDTH, name="wide")(inputs)
    for _ in range(LAYERS):
        hidden = keras.layers.Activation("tanh")(hidden)
    hidden = keras.layers.Reshape((WIDTH // 64, 64))(hidden)
    hidden = keras.layers.GlobalAveragePooling1D(name="mean")(hidden)
    for i in range(hvd.size() - 1):
        hidden = keras.layers.Dense(4, name=f"layer_{i}")(hidden)
    return keras.Model(inputs, hidden)


class PeakMemory:
    """The largest resident memory of this process inside a `with` block, in bytes."""

    def __enter__(self) -> PeakMemory:
        self.bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        process = psutil.Process()
        while not self._done.wait(0.002):
            self.bytes = max(self.bytes, process.memory_info().rss)

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()


def peak(schedule: schedules.Schedule, micro_batches: int) -> int:
    cuts = ["mean", "layer_0", "layer_1"][: hvd.size() - 1]
    model = pipeline_model(build, micro_batches=micro_batches, schedule=schedule, cuts=cuts)
    model.compile(keras.optimizers.SGD(0.01), "mse")
    x = np.ones((micro_batches * ROWS, 4), "float32")
    y = np.ones((micro_batches * ROWS, 64 if hvd.size() == 1 else 4), "float32")
    model.train_on_batch(x, y)
    with PeakMemory() as memory:
        for _ in range(3):
            model.train_on_batch(x, y)
    return memory.bytes


def check_peak_of_activations() -> None:
    """In this order each run needs as much as the one before it, or more."""
    stages = hvd.size()
    few, many = stages, 6 * stages
    runs = [
        peak(schedules.OneForwardOneBackward(), few),
        peak(schedules.OneForwardOneBackward(), many),
        peak(schedules.GPipe(), many),
    ]
    growth = np.diff(runs) / MICRO_BATCH_BYTES
    print(f"MEMORY stage {current_mesh().pipeline_index}: {growth} micro-batches more")
    if current_mesh().pipeline_index == 0:
        assert growth[0] < 0.25 * (many - few), growth
        assert growth[1] > 0.6 * (many - few), growth
