"""One rank of benchmarks/memory.py: train many steps with everything on, and print the memory."""

from __future__ import annotations

import json
import sys
import tempfile
from typing import Any

import hvdkit as hvd


def main(steps: int, every: int) -> None:
    """Train `steps` steps; each rank prints its resident memory in MiB every `every` steps."""
    hvd.init()
    import keras
    import numpy as np
    import psutil

    process = psutil.Process()
    resident: list[float] = []

    class Memory(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self._steps = 0

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self._steps += 1
            if self._steps % every == 0:
                resident.append(process.memory_info().rss / 2**20)

    rng = np.random.default_rng(0)
    x = rng.normal(size=(6400 * hvd.size(), 64)).astype("float32")
    y = x[:, :8].argmax(1).astype("int32")
    layers = [keras.layers.Dense(256, activation="relu"), keras.layers.Dropout(0.1)]
    model = keras.Sequential([keras.Input((64,)), *layers, keras.layers.Dense(8)])
    model.compile(
        optimizer=hvd.DistributedOptimizer(keras.optimizers.Adam(1e-3)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    folder = hvd.broadcast_object(tempfile.mkdtemp() if hvd.rank() == 0 else None)
    callbacks = [
        hvd.callbacks.BroadcastGlobalVariablesCallback(0),
        hvd.callbacks.ConsistencyCheck(every_n_steps=100),
        hvd.callbacks.BackupAndRestore(folder, save_freq=500, keep=2),
        Memory(),
    ]
    data = hvd.shard((x, y), batch_size=32, shuffle=True, seed=1)
    model.fit(data, epochs=steps // 200, callbacks=callbacks, verbose=0)
    sys.stdout.write(f"MEMORY {json.dumps({'rank': hvd.rank(), 'resident': resident})}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
