"""Layers with a state of their own, on ranks of several devices."""

from __future__ import annotations

import keras
import numpy as np
from checks.hybrid_replicas.comparing import BATCH, compare, on_replicas, same_everywhere
from checks.marks import long
from checks.reference import data

import hvdkit as hvd

layers, optimizers = keras.layers, keras.optimizers


def synchronized(seed: int) -> keras.Model:
    """A model that normalizes by the global batch: hvdkit's layer, or Keras's in one process."""
    return _normalizing(seed, hvd.SyncBatchNormalization)


def plain(seed: int) -> keras.Model:
    """The same with Keras's layer."""
    return _normalizing(seed, layers.BatchNormalization)


def _normalizing(seed: int, kind: type[keras.layers.Layer]) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [keras.Input((6,)), layers.Dense(8, "tanh"), kind(momentum=0.5), layers.Dense(2)]
    )


@long
def check_sync_batch_normalization_is_of_all_rows():
    # The last step has 13 rows, or 3, of which one device has none.
    for rows in (45, 35):
        x, y = data(rows)
        reference = plain(0)
        start = reference.get_weights()
        reference.compile(optimizers.SGD(0.1), "mse")
        reference.fit(x, y, batch_size=16, shuffle=False, epochs=2, verbose=0)
        model = on_replicas(synchronized, lambda: hvd.DistributedOptimizer(optimizers.SGD(0.1)))
        if hvd.rank() == 0:
            model.set_weights(start)
        model.fit(
            hvd.shard((x, y), BATCH, shuffle=False),
            epochs=2,
            verbose=0,
            callbacks=[hvd.callbacks.BroadcastGlobalVariablesCallback(0)],
        )
        same_everywhere(model)
        for mine, theirs in zip(model.get_weights(), reference.get_weights(), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=5e-4, atol=5e-5)


@long
def check_statistics_are_means_over_all_devices():
    x, y = data(32)
    x += np.arange(32)[:, None] % 5  # other means on each device

    def build(seed: int) -> keras.Model:
        keras.utils.set_random_seed(seed)
        return keras.Sequential(
            [keras.Input((6,)), layers.BatchNormalization(momentum=0.0), layers.Dense(2)]
        )

    model = on_replicas(build, lambda: hvd.DistributedOptimizer(optimizers.SGD(0.01)))
    model.fit(
        hvd.shard((x, y), BATCH, shuffle=False),
        verbose=0,
        callbacks=[hvd.callbacks.BroadcastGlobalVariablesCallback(0)],
    )
    # Of the last step: each rank has every second row, and each device a half of them.
    shards = [
        x[16 + rank : 32 : 2][4 * device : 4 * device + 4]
        for rank in range(2)
        for device in range(2)
    ]
    moving = model.layers[0]
    for variable, expected in (
        (moving.moving_mean, np.mean([rows.mean(0) for rows in shards], 0)),
        (moving.moving_variance, np.mean([rows.var(0) for rows in shards], 0)),
    ):
        for copy in variable.value.values:
            np.testing.assert_allclose(copy.numpy(), expected, rtol=1e-4, atol=1e-5)


def regularized(seed: int) -> keras.Model:
    """A model with a loss of its own."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, "tanh", kernel_regularizer=keras.regularizers.L2(0.1)),
            layers.Dense(2),
        ]
    )


@long
def check_regularization_counts_once():
    compare(lambda: optimizers.Adam(0.02), build=regularized)


@long
def check_dropout_trains():
    def build(seed: int) -> keras.Model:
        keras.utils.set_random_seed(seed)
        return keras.Sequential(
            [keras.Input((6,)), layers.Dense(8), layers.Dropout(0.5), layers.Dense(2)]
        )

    model = on_replicas(build, lambda: hvd.DistributedOptimizer(optimizers.Adam(0.05)))
    history = model.fit(
        hvd.shard(data(64), BATCH),
        epochs=4,
        verbose=0,
        callbacks=[hvd.callbacks.BroadcastGlobalVariablesCallback(0)],
    )
    same_everywhere(model)
    assert history.history["loss"][-1] < history.history["loss"][0]
