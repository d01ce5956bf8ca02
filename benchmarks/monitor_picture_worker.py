"""One rank of benchmarks/monitor_picture.py: a training in which a rank becomes slower."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from slowed import slowed

import hvdkit as hvd

SHARE, BATCH, SIDE, CLASSES = 0.6, 16, 20, 4


def main(folder: str, steps: int) -> None:
    """Train, and write figures to the folder."""
    hvd.init()
    import keras
    import numpy as np

    last = hvd.rank() == hvd.size() - 1

    class Slows(keras.callbacks.Callback):
        """The last rank is slow from the middle of the training on."""

        def on_train_begin(self, logs: Any = None) -> None:
            self.slow = contextlib.ExitStack()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if last and batch == steps // 2:
                self.slow.enter_context(slowed(SHARE))

        def on_train_end(self, logs: Any = None) -> None:
            self.slow.close()

    rng = np.random.default_rng(0)
    patterns = rng.normal(size=(CLASSES, SIDE, SIDE, 3))
    y = rng.integers(0, CLASSES, steps * BATCH * hvd.size())
    x = (patterns[y] + 3 * rng.normal(size=(len(y), SIDE, SIDE, 3))).astype("float32")
    keras.utils.set_random_seed(0)
    convolutions = [keras.layers.Conv2D(32, 3, activation="relu") for _ in range(3)]
    head = [keras.layers.Flatten(), keras.layers.Dense(CLASSES)]
    model = keras.Sequential([keras.Input((SIDE, SIDE, 3)), *convolutions, *head])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(hvd.DistributedOptimizer(keras.optimizers.Adam(1e-4)), loss)
    monitor = hvd.callbacks.Monitor(5, [hvd.monitoring.JsonLines(folder)])
    data = hvd.shard((x, y), BATCH, seed=0)
    model.fit(data, verbose=0, callbacks=[monitor, Slows()])
    sys.stdout.write('PICTURE {"done": true}\n')


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
