"""Rank 1 stays away from a collective for longer than the limit."""

import sys
import time

import keras
import numpy as np
import tensorflow as tf

import hvdkit as hvd

hvd.init(stall_timeout=3)
STEPS_TOGETHER = 3


class Late(keras.callbacks.Callback):
    """Rank 1 sleeps before a step, when Horovod has the reductions in its cache."""

    def on_train_batch_begin(self, batch, logs=None) -> None:
        if batch == STEPS_TOGETHER and hvd.rank() == 1:
            time.sleep(600)


def in_fit() -> None:
    """The others wait inside a compiled training step."""
    hvd.set_random_seed(0)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(2)])
    model.compile(optimizer=hvd.DistributedOptimizer("sgd"), loss="mse")
    model.fit(np.ones((40, 4)), np.ones((40, 2)), batch_size=4, verbose=0, callbacks=[Late()])


def in_allreduce(steps_together: int) -> None:
    """The others wait in an allreduce, with or without having done it before."""
    for step in range(steps_together + 1):
        if step == steps_together and hvd.rank() == 1:
            time.sleep(600)
        hvd.allreduce(tf.constant([1.0]))


if __name__ == "__main__":
    {
        "first": lambda: in_allreduce(0),
        "cached": lambda: in_allreduce(STEPS_TOGETHER),
        "fit": in_fit,
    }[sys.argv[1]]()
