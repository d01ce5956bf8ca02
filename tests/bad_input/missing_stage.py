"""A stage of a pipeline stays away from a step for longer than the limit."""

import time

import keras
import numpy as np

import hvdkit as hvd

hvd.init(stall_timeout=3)
LATE_RANK = 1


class Late(keras.callbacks.Callback):
    """One stage sleeps before a step; the others wait for its activations, or its gradients."""

    def on_train_batch_begin(self, batch, logs=None) -> None:
        if batch == 3 and hvd.rank() == LATE_RANK:
            time.sleep(600)


def build() -> keras.Model:
    return keras.Sequential([keras.Input((4,)), *(keras.layers.Dense(4) for _ in range(6))])


hvd.set_mesh(hvd.Mesh(pipeline=hvd.size()))
hvd.set_random_seed(0)
model = hvd.parallel.PipelineModel(build, micro_batches=2)
model.compile(optimizer="sgd", loss="mse")
model.fit(np.ones((40, 4)), np.ones((40, 4)), batch_size=4, verbose=0, callbacks=[Late()])
