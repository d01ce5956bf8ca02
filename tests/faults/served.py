"""A training with a parameter server and a fault: `served.py VICTIM STALENESS SIGNAL`.

The victim sends itself the signal when the first worker has begun its fourth step.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

import hvdkit as hvd

STEPS = 2000


class Marks(keras.callbacks.Callback):
    """The first worker says which step it begins; the victim waits to hear of the fourth."""

    def __init__(self, file: Path, is_victim: bool, fault: signal.Signals) -> None:
        super().__init__()
        self._file = file
        self._is_victim = is_victim
        self._signal = fault

    def on_train_begin(self, logs: Any = None) -> None:
        if self._is_victim:
            threading.Thread(target=self._end, daemon=True).start()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if hvd.rank() == 0 and batch == 3:
            self._file.touch()

    def _end(self) -> None:
        while not self._file.exists():
            time.sleep(0.01)
        print(f"FAULT AT {time.time()}", flush=True)
        os.kill(os.getpid(), self._signal)


def main() -> None:
    victim, staleness, fault = sys.argv[1:]
    hvd.init(stall_timeout=5.0)
    print(f"PID {os.getpid()}", flush=True)
    bound = None if staleness == "None" else int(staleness)
    exchange = hvd.exchange.ParameterServer(staleness=bound)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)])
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(1e-3), exchange=exchange), "mse")
    x = np.random.default_rng(hvd.rank()).normal(size=(2 * STEPS, 6)).astype("float32")
    file = Path(hvd.broadcast_object(tempfile.mkdtemp())) / "begun"
    marks = Marks(file, hvd.rank() == int(victim), signal.Signals[fault])
    model.fit(x, x[:, :2], batch_size=2, epochs=50, verbose=0, callbacks=[marks])
    print("TRAINED", flush=True)


if __name__ == "__main__":
    main()
