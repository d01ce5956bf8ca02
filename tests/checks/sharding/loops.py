"""Sharded data in a loop of one's own."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from checks.marks import long
from checks.reference import BATCH, data, mlp, same_on_all_ranks
from checks.sharding.reference import global_batches, number_of_rows

import hvdkit as hvd


@long
def check_custom_loop_with_row_weights() -> None:
    x, y = data(number_of_rows(1))
    reference = mlp(0)
    start = reference.get_weights()
    reference.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    reference.fit(global_batches(x, y), verbose=0)
    model = mlp(hvd.rank())
    model.set_weights(start)
    optimizer = keras.optimizers.SGD(0.1)
    loss_fn = keras.losses.MeanSquaredError()
    for bx, by, weights in hvd.shard((x, y), BATCH, shuffle=False):
        with tf.GradientTape() as tape:
            loss = loss_fn(by, model(bx, training=True), sample_weight=weights)
        tape = hvd.DistributedGradientTape(tape)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    same_on_all_ranks(model)
    for mine, theirs in zip(model.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)
