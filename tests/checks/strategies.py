"""hvd.strategy: the same training as one process, on local devices, and on ranks."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from checks.marks import long
from checks.reference import data, mlp

import hvdkit as hvd

ENVIRONMENT = {"CHECKS_CPU_DEVICES": "4"}


def _train(strategy: tf.distribute.Strategy, batch_size: int) -> list[np.ndarray]:
    """What a script does, whatever it runs on."""
    x, y = data(64)
    with strategy.scope():
        model = mlp(0)
        optimizer = hvd.DistributedOptimizer(keras.optimizers.Adam(0.02))
        model.compile(optimizer=optimizer, loss="mse", metrics=["mae"])
    model.fit(
        hvd.shard((x, y), batch_size, seed=1),
        epochs=2,
        verbose=0,
        callbacks=[
            hvd.callbacks.BroadcastGlobalVariablesCallback(0),
            hvd.callbacks.MetricAverageCallback(),
        ],
        validation_data=hvd.shard((x, y), batch_size),
    )
    assert model.predict(hvd.shard(x, batch_size), verbose=0).shape == (64, 2)
    return model.get_weights()


def check_finds_the_form_that_fits() -> None:
    mirrored = isinstance(hvd.strategy(), tf.distribute.MirroredStrategy)
    assert mirrored == (hvd.size() == 1)
    assert not isinstance(hvd.strategy("single"), tf.distribute.MirroredStrategy)
    # In several ranks, too: `checks.hybrid_replicas` trains on it.
    assert hvd.strategy("mirrored").num_replicas_in_sync == 4


@long
def check_same_weights_in_every_form() -> None:
    # Batches of 16 rows: of two devices, of two ranks, or of one process.
    form = hvd.strategy()
    devices = form.num_replicas_in_sync * hvd.size()
    weights = _train(form, 16 // devices)
    alone = hvd.broadcast_object(
        _reference_weights() if hvd.rank() == 0 else None,
    )
    for mine, theirs in zip(weights, alone, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def _reference_weights() -> list[np.ndarray]:
    """Plain Keras on the same global batches."""
    x, y = data(64)
    model = mlp(0)
    model.compile(optimizer=keras.optimizers.Adam(0.02), loss="mse")
    for epoch in range(2):
        order = np.random.default_rng([1, epoch]).permutation(64)
        for rows in order.reshape(-1, 16):
            model.train_on_batch(x[rows], y[rows])
    return model.get_weights()


def check_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="mirrored"):
        hvd.strategy("fast")
