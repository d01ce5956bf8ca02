"""A dataset of unknown length that turns out to have fewer rows than there are ranks."""

import keras
import numpy as np
import tensorflow as tf

import hvdkit as hvd

hvd.init(consistency_check=False)


def rows():
    """One row."""
    yield np.ones(2, np.float32), np.ones(1, np.float32)


signature = (tf.TensorSpec([2], tf.float32), tf.TensorSpec([1], tf.float32))
data = tf.data.Dataset.from_generator(rows, output_signature=signature)
model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
model.compile(optimizer=hvd.DistributedOptimizer("sgd"), loss="mse")
model.fit(hvd.shard(data, batch_size=4), verbose=0)
