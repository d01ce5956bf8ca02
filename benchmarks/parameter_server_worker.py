"""One rank of `parameter_server.py`: steps of a small model, on one rank slower than on the others.

parameter_server_worker.py EXCHANGE STEPS SECONDS SLOWED: prints, for each rank that trains, the
median seconds of its steps. A step takes SECONDS at least, and SLOWED times that on the
slow rank: a sleep, so that the ranks do not slow each other by using the same cores.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

import keras
import numpy as np

import hvdkit as hvd

SLOW_RANK = 1
WARM_UP = 5


class Timed(keras.callbacks.Callback):
    """Makes each step as slow as it has to be, and notes how long it took."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._least = seconds
        self._begun = 0.0
        self.seconds: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Sleep, in the place of a larger model."""
        if self._begun:
            self.seconds.append(time.monotonic() - self._begun)
        self._begun = time.monotonic()
        time.sleep(self._least)


def main() -> None:
    """Train, and print this rank's median step."""
    name, steps, seconds, slowed = sys.argv[1], *map(float, sys.argv[2:])
    hvd.init()
    exchange: Any = {
        "all-reduce": hvd.exchange.AllReduce,
        "asynchronous": hvd.exchange.ParameterServer,
    }[name]()
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64), keras.layers.Dense(1)])
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(1e-3), exchange=exchange), "mse")
    x = np.random.default_rng(hvd.rank()).normal(size=(int(steps) * 8, 64)).astype("float32")
    timed = Timed(seconds * (slowed if hvd.rank() == SLOW_RANK else 1.0))
    broadcast = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
    model.fit(x, x[:, :1], batch_size=8, verbose=0, callbacks=[broadcast, timed])
    medians = hvd.allgather_object(
        statistics.median(timed.seconds[WARM_UP:]) if timed.seconds else None
    )
    if hvd.rank() == 0:
        for rank, median in enumerate(medians):
            if median is not None:
                print("STEP", json.dumps({"rank": rank, "seconds": median}), flush=True)


if __name__ == "__main__":
    main()
