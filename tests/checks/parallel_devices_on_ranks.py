"""Two ranks that each split the model over devices of their own, trained on different data."""

from __future__ import annotations

import time

import keras
import numpy as np
import tensorflow as tf
from checks.marks import long
from checks.parallel_devices.comparing import devices_of
from checks.reference import compare_with_one_process

import hvdkit as hvd

ENVIRONMENT = {"CHECKS_CPU_DEVICES": "4"}
layers, optimizers = keras.layers, keras.optimizers


def model(seed: int) -> keras.Model:
    """The model on one device for the reference's seed, over two devices for others."""
    keras.utils.set_random_seed(seed)
    parts = [
        keras.Sequential([layers.Dense(8, "tanh"), layers.Dense(7, "tanh")]),
        layers.Dense(2),
    ]
    inputs = keras.Input((6,))
    if seed:
        devices = [f"CPU:{2 * hvd.rank()}", f"CPU:{2 * hvd.rank() + 1}"]
        split = hvd.parallel.LayerSplit(parts, devices, micro_batches=2)
        return keras.Model(inputs, split(inputs))
    return keras.Model(inputs, parts[1](parts[0](inputs)))


@long
def check_ranks_train_as_one_process_does():
    trained = compare_with_one_process(
        model,
        lambda: optimizers.Adam(0.02, global_clipnorm=0.1),
        lambda: hvd.DistributedOptimizer(optimizers.Adam(0.02, global_clipnorm=0.1)),
    )
    first, second = f"CPU:{2 * hvd.rank()}", f"CPU:{2 * hvd.rank() + 1}"
    assert devices_of(trained.trainable_variables) == [first] * 4 + [second] * 2
    slots = devices_of(trained.optimizer.variables)[2:]
    assert slots == [first] * (len(slots) * 2 // 3) + [second] * (len(slots) // 3)


class Slow(layers.Layer):
    """A layer that takes longer on one rank than on the others."""

    def __init__(self, rank: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.rank = rank

    def get_config(self):
        return {**super().get_config(), "rank": self.rank}

    def call(self, x):
        if hvd.rank() != self.rank:
            return x * 1.0
        nothing = tf.numpy_function(lambda: time.sleep(0.05) or np.float32(0), [], tf.float32)
        return x + tf.ensure_shape(nothing, ())


def check_ranks_cut_in_the_same_places_whatever_they_measure():
    names = ["a", "b", "c", "d"]
    whole = keras.Sequential(
        [
            keras.Input((6,)),
            Slow(0, name="slow_on_0"),
            *(layers.Dense(6, name=name) for name in names),
            Slow(1, name="slow_on_1"),
        ]
    )
    devices = [f"CPU:{2 * hvd.rank()}", f"CPU:{2 * hvd.rank() + 1}"]
    split = hvd.parallel.split(whole, devices, times="measure", verbose=False)
    cuts = [[layer.name for layer in part.layers] for part in split.layers[1].parts]
    assert cuts[0][1:] == ["slow_on_0"], cuts
    for others in hvd.allgather_object(cuts):
        assert [part[1:] for part in others] == [part[1:] for part in cuts]
