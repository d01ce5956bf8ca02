"""A callback of rank 1 stops the training within an epoch, and the others go on with it."""

import keras
import numpy as np

import hvdkit as hvd

hvd.init()  # nobody waits for the limit of 300 s
hvd.set_random_seed(0)


class OutOfTime(keras.callbacks.Callback):
    """A clock that only rank 1 looks at."""

    def on_train_batch_end(self, batch, logs=None) -> None:
        if batch == 3 and hvd.rank() == 1:
            self.model.stop_training = True


model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(2)])
model.compile(optimizer=hvd.DistributedOptimizer("sgd"), loss="mse")
model.fit(np.ones((40, 4)), np.ones((40, 2)), batch_size=4, verbose=0, callbacks=[OutOfTime()])
