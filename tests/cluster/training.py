"""A training that goes on until something happens: `training.py LIMIT STEPS [WIDTH]`."""

from __future__ import annotations

import socket
import sys
import time

import keras
import numpy as np

import hvdkit as hvd

LIMIT, STEPS = float(sys.argv[1]), int(sys.argv[2])
WIDTH = int(sys.argv[3]) if len(sys.argv) > 3 else 8
STEP_SECONDS = 0.02


class Say(keras.callbacks.Callback):
    """What each rank prints as it trains."""

    def on_train_batch_end(self, batch, logs=None) -> None:
        time.sleep(STEP_SECONDS)
        if batch == 2:
            print(f"TRAINS rank {hvd.rank()} on {socket.gethostname()}", flush=True)


def main() -> None:
    hvd.init(stall_timeout=LIMIT)
    places = (hvd.rank(), hvd.local_rank(), hvd.local_size(), hvd.cross_rank(), hvd.cross_size())
    print(f"PLACE {socket.gethostname()} {places}", flush=True)
    keras.utils.set_random_seed(hvd.rank())
    model = keras.Sequential([keras.layers.Input((WIDTH,)), keras.layers.Dense(WIDTH)])
    model.compile(hvd.DistributedOptimizer("sgd"), "mse")
    rows = np.random.default_rng(hvd.rank()).normal(size=(4 * STEPS, WIDTH)).astype("float32")
    start = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
    model.fit(rows, rows, batch_size=4, verbose=0, callbacks=[start, Say()])
    print("TRAINED", flush=True)


if __name__ == "__main__":
    main()
