"""One rank of benchmarks/monitor.py: two trainings in turn, of which one is monitored."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from typing import Any

import hvdkit as hvd

STEPS, WARM_UP = 60, 2


def main(every: int, layers: int, rounds: int) -> None:
    """Print the seconds of a step for each turn of both trainings."""
    hvd.init(consistency_check=False)
    import keras
    import numpy as np
    import tensorflow as tf

    class StepTimes(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            self.ends: list[float] = []

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.ends.append(time.perf_counter())

        @property
        def seconds(self) -> float:
            """Of a step: the median of groups of steps with one sample each."""
            groups = zip(self.ends[:-every], self.ends[every:], strict=True)
            return statistics.median(end - begun for begun, end in groups) / every

    def compiled() -> keras.Model:
        hvd.set_random_seed(0)
        dense = [keras.layers.Dense(512) for _ in range(layers)]
        model = keras.Sequential([keras.Input((512,)), *dense])
        optimizer = hvd.exchange.AllReduce(groups=layers)
        model.compile(
            hvd.DistributedOptimizer(keras.optimizers.SGD(1e-4), exchange=optimizer), "mse"
        )
        return model

    rows = tf.constant(np.zeros((1, 512), "float32"))
    data = tf.data.Dataset.from_tensors((rows, rows)).cache().repeat()
    monitor = hvd.callbacks.Monitor(every, [hvd.monitoring.JsonLines(tempfile.mkdtemp())])
    trainings: dict[str, tuple[keras.Model, list[Any]]] = {
        "plain": (compiled(), []),
        "monitored": (compiled(), [monitor]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in trainings}
    for turn in range(WARM_UP + rounds):
        for name, (model, callbacks) in trainings.items():
            times = StepTimes()
            model.fit(data, steps_per_epoch=STEPS, verbose=0, callbacks=[*callbacks, times])
            if turn >= WARM_UP:
                seconds[name].append(times.seconds)
    assert monitor.sample is not None
    collectives = sum("bucket" in name or "group" in name for name in monitor.sample.sent)
    line = {**seconds, "collectives": collectives}
    sys.stdout.write(f"MONITOR {json.dumps(line)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
