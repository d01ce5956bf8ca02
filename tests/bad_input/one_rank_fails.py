"""Rank 1 ends, by an error or by its script's end, while the others wait for it."""

import sys

import keras
import numpy as np

import hvdkit as hvd

hvd.init()


class Fail(keras.callbacks.Callback):
    """Rank 1 ends before its second step."""

    def on_train_batch_begin(self, batch, logs=None) -> None:
        if batch == 1 and hvd.rank() == 1:
            raise KeyError("only on rank 1")


if sys.argv[1] == "fit":
    hvd.set_random_seed(0)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(2)])
    model.compile(optimizer=hvd.DistributedOptimizer("sgd"), loss="mse")
    model.fit(np.ones((40, 4)), np.ones((40, 2)), batch_size=4, verbose=0, callbacks=[Fail()])
elif hvd.rank() == 1:
    if sys.argv[1] == "error":
        raise KeyError("only on rank 1")
else:
    hvd.allreduce(1.0)
