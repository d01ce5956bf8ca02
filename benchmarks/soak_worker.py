"""One rank of benchmarks/soak.py: train, save, and note each step, until somebody ends the job."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import hvdkit as hvd

STALL_TIMEOUT = 15
SAVE_EVERY = 20


def main(folder: str) -> None:
    """Train with checkpoints in `folder`; go on from the newest."""
    hvd.init(stall_timeout=STALL_TIMEOUT)
    import keras
    import numpy as np

    class Note(keras.callbacks.Callback):
        """Rank 0 notes each optimizer step, every rank its process."""

        def __init__(self) -> None:
            super().__init__()
            self._steps = Path(folder, "steps")

        def on_train_begin(self, logs: Any = None) -> None:
            Path(folder, f"{hvd.rank()}.pid").write_text(str(os.getpid()))

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if hvd.rank() == 0:
                with self._steps.open("a") as file:
                    file.write(f"{int(self.model.optimizer.iterations)} {time.time()}\n")

    rng = np.random.default_rng(0)
    x = rng.normal(size=(4096, 64)).astype("float32")
    y = (x[:, :8].argmax(1)).astype("int32")
    keras.utils.set_random_seed(hvd.rank())
    layers = [keras.layers.Dense(256, activation="relu"), keras.layers.Dropout(0.1)]
    model = keras.Sequential([keras.Input((64,)), *layers, keras.layers.Dense(8)])
    model.compile(
        optimizer=hvd.DistributedOptimizer(keras.optimizers.Adam(1e-3)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    callbacks = [
        hvd.callbacks.BroadcastGlobalVariablesCallback(0),
        hvd.callbacks.BackupAndRestore(Path(folder, "backup"), save_freq=SAVE_EVERY, keep=2),
        Note(),
    ]
    model.fit(
        hvd.shard((x, y), batch_size=32, shuffle=True, seed=1),
        epochs=1_000_000,
        callbacks=callbacks,
        verbose=0,
    )


if __name__ == "__main__":
    main(sys.argv[1])
