"""A model whose shapes differ between ranks; `broadcast` finds it before the first step."""

import sys

import keras
import numpy as np

import hvdkit as hvd

# Otherwise fit itself compares the variables before the first step.
hvd.init(consistency_check=sys.argv[1] == "broadcast")
units = 3 if hvd.rank() == 1 else 2
model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(units)])
model.compile(optimizer=hvd.DistributedOptimizer("sgd"), loss="mse")
callbacks = []
if sys.argv[1] == "broadcast":
    callbacks = [hvd.callbacks.BroadcastGlobalVariablesCallback(0)]
model.fit(np.ones((8, 4)), np.ones((8, units)), batch_size=4, verbose=0, callbacks=callbacks)
