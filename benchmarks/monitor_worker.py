"""One rank of benchmarks/monitor.py: two trainings in turn, of which one is monitored."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from typing import Any

import hvdkit as hvd

WIDTH, STEPS, WARM_UP = 64, 100, 1


def main(every: int, layers: int, seconds: float) -> None:
    """Print what a step of each turn of both trainings took, for about so many seconds.

    Each is the time by the clock, and that of the processors: of the whole process, and of the
    thread that Python runs in.
    """
    hvd.init(consistency_check=False)
    import keras
    import numpy as np
    import tensorflow as tf

    class Clocks(keras.callbacks.Callback):
        """Reads the clocks at the end of each step."""

        def on_train_begin(self, logs: Any = None) -> None:
            self.ends: list[tuple[float, float, float]] = []

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.ends.append((time.perf_counter(), time.process_time(), time.thread_time()))

        def of_a_step(self) -> tuple[float, float, float]:
            """By the clock the median of groups of steps with one sample each; the others' mean."""
            groups = zip(self.ends[:-every], self.ends[every:], strict=True)
            wall = statistics.median(end[0] - begun[0] for begun, end in groups) / every
            first, last, steps = self.ends[0], self.ends[-1], len(self.ends) - 1
            return wall, (last[1] - first[1]) / steps, (last[2] - first[2]) / steps

    def compiled() -> keras.Model:
        hvd.set_random_seed(0)
        dense = [keras.layers.Dense(WIDTH) for _ in range(layers)]
        model = keras.Sequential([keras.Input((WIDTH,)), *dense])
        exchange = hvd.exchange.AllReduce(groups=layers)
        optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(1e-4), exchange=exchange)
        model.compile(optimizer, "mse")
        return model

    rows = tf.constant(np.zeros((1, WIDTH), "float32"))
    data = tf.data.Dataset.from_tensors((rows, rows)).cache().repeat()
    monitor = hvd.callbacks.Monitor(every, [hvd.monitoring.JsonLines(tempfile.mkdtemp())])
    trainings = {"plain": (compiled(), []), "monitored": (compiled(), [monitor])}
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in trainings}

    def turn(name: str) -> tuple[float, float, float]:
        model, callbacks = trainings[name]
        clocks = Clocks()
        # The first steps of a `fit` read the data anew.
        model.fit(data, steps_per_epoch=STEPS, verbose=0, callbacks=[*callbacks, clocks])
        return clocks.of_a_step()

    for name in trainings:
        turn(name)
    begun, number = time.monotonic(), 0
    while hvd.broadcast_object(number < 2 or time.monotonic() - begun < seconds):
        # Who comes first in a round may be a little faster, so the order changes.
        for name in list(trainings)[:: -1 if number % 2 else 1]:
            found[name].append(turn(name))
        number += 1
    assert monitor.sample is not None
    collectives = sum("bucket" in name or "group" in name for name in monitor.sample.sent)
    sys.stdout.write(f"MONITOR {json.dumps({**found, 'collectives': collectives})}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
