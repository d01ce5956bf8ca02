"""What Keras's optimizers do with gradients, on ranks of several devices."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.hybrid_replicas.comparing import (
    BATCH,
    compare,
    on_replicas,
    same_everywhere,
    same_weights,
)
from checks.marks import long
from checks.reference import data, mlp

import hvdkit as hvd

optimizers = keras.optimizers


@long
def check_accumulation_with_clipping():
    # A step of two batches has their mean; the third batch of the last epoch waits.
    compare(lambda: optimizers.Adam(0.02, gradient_accumulation_steps=2, clipnorm=0.1))


@long
def check_averages_decay_and_constraints():
    def build(seed: int) -> keras.Model:
        return mlp(seed, kernel_constraint=keras.constraints.MaxNorm(1.0))

    compare(
        lambda: optimizers.AdamW(0.02, weight_decay=0.1, clipvalue=0.02, use_ema=True),
        build=build,
    )


def embedding(seed: int) -> keras.Model:
    """A model whose first gradient is rows."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((3,), dtype="int32"),
            keras.layers.Embedding(11, 4),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )


@long
def check_sparse_gradients():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 11, (33, 3)).astype("int32")
    # SGD takes rows of one id by one, or their sum.
    compare(lambda: optimizers.SGD(0.3), build=embedding, arrays=(ids, data(33)[1]))


class Spoiling(keras.layers.Layer):
    """Infinity for rows whose first number is above a limit, and the gradient with it."""

    def call(self, x):
        return tf.where(x[:, :1] > 50.0, np.float32("inf"), 1.0) * x


def spoiled(seed: int) -> keras.Model:
    """A model that overflows for some rows."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((6,)), Spoiling(), keras.layers.Dense(2)])


@long
def check_loss_scaling_skips_on_all_devices():
    x, y = data(48)
    x[16 + 14, 0] = 100.0  # a row of the last device of one rank, in the second of three steps
    model = compare(
        lambda: optimizers.LossScaleOptimizer(optimizers.Adam(0.02), initial_scale=4.0),
        build=spoiled,
        arrays=(x, y),
        epochs=1,
        metrics=[],
        loss=finite_mse,
    )
    assert int(model.optimizer.inner_optimizer.iterations.numpy()) == 2
    assert float(model.optimizer.dynamic_scale.numpy()) == 2.0


def finite_mse(y: Any, predicted: Any) -> Any:
    """A loss whose value is finite where its gradient is not."""
    error = tf.reduce_mean(tf.square(predicted - y), -1)
    return tf.where(tf.math.is_finite(error), error, 0.0 * predicted[:, 0])


@long
def check_other_rules():
    for plain in (
        lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True, global_clipnorm=0.2),
        lambda: optimizers.Lamb(0.02),
        lambda: optimizers.Adafactor(0.02),
        lambda: optimizers.Muon(0.02),
    ):
        compare(plain, epochs=1)


@long
def check_what_rules_are_combined_with():
    def adam(rate: Any = 0.02, **options: Any) -> Any:
        return optimizers.Adam(rate, **options)

    for plain in (
        lambda: adam(use_ema=True, gradient_accumulation_steps=3),
        lambda: adam(loss_scale_factor=8.0),
        lambda: optimizers.LossScaleOptimizer(
            adam(gradient_accumulation_steps=2, clipnorm=0.1), initial_scale=4.0
        ),
        lambda: adam(optimizers.schedules.ExponentialDecay(0.05, 2, 0.5)),
    ):
        compare(plain, epochs=1)


@long
def check_passes_and_sums():
    compare(
        lambda: optimizers.SGD(0.02, gradient_accumulation_steps=2),
        distributed=lambda: hvd.DistributedOptimizer(
            optimizers.SGD(0.02), backward_passes_per_step=2, average_aggregated_gradients=True
        ),
    )
    # The sum over two ranks is twice the mean.
    compare(
        lambda: optimizers.SGD(0.1),
        distributed=lambda: hvd.DistributedOptimizer(optimizers.SGD(0.05), op=hvd.Sum),
    )


@long
def check_local_variables_stay_on_their_rank():
    model = on_replicas(mlp, lambda: hvd.DistributedOptimizer(optimizers.SGD(0.1)))
    own = model.layers[-1].bias
    model.optimizer.register_local_var(own)
    broadcast = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
    model.fit(hvd.shard(data(33), BATCH), verbose=0, callbacks=[broadcast])
    biases = hvd.allgather_object(own.numpy())
    assert np.abs(biases[0] - biases[1]).max() > 1e-6
    copies = [copy.numpy() for copy in own.value.values]
    np.testing.assert_array_equal(*copies)


@long
def check_a_second_fit_goes_on():
    def adam() -> Any:
        return optimizers.Adam(0.02)

    model = on_replicas(mlp, lambda: hvd.DistributedOptimizer(adam()))
    reference = mlp(0)
    reference.compile(adam(), "mse")
    arrays = data(33)
    for callbacks in ([hvd.callbacks.BroadcastGlobalVariablesCallback(0)], []):
        rows = hvd.shard(arrays, BATCH, shuffle=False)
        model.fit(rows, verbose=0, callbacks=callbacks)
        reference.fit(*arrays, batch_size=16, shuffle=False, verbose=0)
    same_everywhere(model)
    same_weights(model, reference)
