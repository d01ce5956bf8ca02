"""`fit`, `evaluate` and `predict` on ranks of several devices equal those of one process."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from checks.hybrid_replicas.comparing import (
    BATCH,
    compare,
    mirrored,
    on_replicas,
    same_everywhere,
    same_logs,
    same_weights,
)
from checks.marks import long
from checks.reference import data, mlp

import hvdkit as hvd

optimizers = keras.optimizers


def weighted(rows: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """x, y and weights of rows."""
    rng = np.random.default_rng(seed + 7)
    return (*data(rows, seed=seed), rng.uniform(0.2, 3, rows).astype("float32"))


@long
def check_a_short_batch_counts_as_many_rows_as_it_has():
    # The last of 33 rows is on one device only; each of the others has a padding row.
    compare(
        lambda: optimizers.Adam(0.02, global_clipnorm=0.5),
        arrays=weighted(33),
        metrics=["mae"],
        weighted_metrics=["mse"],
    )


@long
def check_evaluate_and_predict():
    model = on_replicas(mlp, lambda: "sgd", metrics=["mae"], weighted_metrics=["mse"])
    hvd.broadcast_variables(model.variables, 0)
    arrays = weighted(29, seed=1)
    one = mlp(0)
    one.set_weights(model.get_weights())
    one.compile("sgd", "mse", metrics=["mae"], weighted_metrics=["mse"])
    expected = one.evaluate(*arrays[:2], sample_weight=arrays[2], verbose=0, return_dict=True)
    found = model.evaluate(hvd.shard(arrays, BATCH), verbose=0, return_dict=True)
    same_logs(found, expected)
    for rows in (29, 33):
        x = data(rows)[0]
        predicted = model.predict(hvd.shard(x, BATCH), verbose=0)
        np.testing.assert_allclose(predicted, one.predict(x, verbose=0), rtol=1e-5, atol=1e-6)


@long
def check_eagerly_with_validation():
    held_out = data(21, seed=3)
    arrays = data(22)
    reference = mlp(0)
    reference.compile(optimizers.SGD(0.1, momentum=0.9), "mse")
    expected = reference.fit(
        *arrays, batch_size=16, shuffle=False, verbose=0, validation_data=held_out
    )
    model = on_replicas(
        mlp,
        lambda: hvd.DistributedOptimizer(optimizers.SGD(0.1, momentum=0.9)),
        run_eagerly=True,
    )
    history = model.fit(
        hvd.shard(arrays, BATCH, shuffle=False),
        verbose=0,
        callbacks=[hvd.callbacks.BroadcastGlobalVariablesCallback(0)],
        validation_data=hvd.shard(held_out, BATCH),
    )
    same_everywhere(model)
    same_weights(model, reference)
    same_logs(history.history, expected.history)


@long
def check_a_dataset():
    arrays = data(34)
    dataset = tf.data.Dataset.from_tensor_slices(arrays)
    reference = mlp(0)
    reference.compile(optimizers.Adam(0.02), "mse")
    expected = reference.fit(*arrays, batch_size=16, shuffle=False, verbose=0)
    model = on_replicas(mlp, lambda: hvd.DistributedOptimizer(optimizers.Adam(0.02)))
    history = model.fit(
        hvd.shard(dataset, BATCH),
        verbose=0,
        callbacks=[hvd.callbacks.BroadcastGlobalVariablesCallback(0)],
    )
    same_everywhere(model)
    same_weights(model, reference)
    same_logs(history.history, expected.history)


@long
def check_data_that_ranks_read_themselves():
    # 5 rows of a rank are 3 on one device and 2 on the other; the last one leaves one without any.
    x, y, weights = weighted(32)
    reference = mlp(0)
    reference.compile(optimizers.SGD(0.1), "mse")
    reference.fit(x, y, sample_weight=weights, batch_size=10, shuffle=False, verbose=0)
    blocks = [range(start, min(start + 10, 32)) for start in range(0, 32, 10)]
    own = [row for rows in blocks for row in np.array_split(rows, 2)[hvd.rank()]]
    model = on_replicas(mlp, lambda: hvd.DistributedOptimizer(optimizers.SGD(0.1)))
    model.build((None, 6))
    dataset = tf.data.Dataset.from_tensor_slices((x[own], y[own], weights[own])).batch(5)
    model.fit(dataset, verbose=0, callbacks=[hvd.callbacks.BroadcastGlobalVariablesCallback(0)])
    same_everywhere(model)
    same_weights(model, reference)


@long
def check_a_loop_of_ones_own():
    x, y = data(64)
    reference = mlp(0)
    reference.compile(optimizers.Adam(0.02, clipnorm=0.1), "mse")
    reference.fit(x, y, batch_size=16, shuffle=False, verbose=0)

    strategy = mirrored()
    with strategy.scope():
        model = mlp(100 * hvd.rank())
        optimizer = hvd.DistributedOptimizer(optimizers.Adam(0.02, clipnorm=0.1))
        optimizer.build(model.trainable_variables)
    hvd.broadcast_variables(model.variables, 0)

    def step(rows_x: tf.Tensor, rows_y: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(model(rows_x, training=True) - rows_y)) / (2 * 8)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)

    run = tf.function(lambda *halves: strategy.run(step, args=halves))
    for rows in np.arange(64).reshape(4, 2, 2, 4)[:, hvd.rank()]:
        run(
            *(
                strategy.experimental_distribute_values_from_function(
                    lambda context, of=of, rows=rows: of[rows[context.replica_id_in_sync_group]]
                )
                for of in (x, y)
            )
        )
    same_everywhere(model)
    same_weights(model, reference)


class Stepping(keras.Model):
    """A model with a step of its own."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        keras.utils.set_random_seed(seed)
        self.inner = keras.layers.Dense(2)
        self.inner.build((None, 6))
        self.errors = keras.metrics.MeanAbsoluteError(name="errors")

    def call(self, x):
        return self.inner(x)

    def train_step(self, batch):
        x, y = batch
        with tf.GradientTape() as tape:
            predicted = self(x, training=True)
            loss = self.optimizer.scale_loss(self.compute_loss(y=y, y_pred=predicted))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        self.errors.update_state(y, predicted)
        return {"errors": self.errors.result()}


@long
def check_a_step_of_ones_own():
    compare(lambda: optimizers.Adam(0.02), build=Stepping)


@long
def check_class_weights():
    x = data(33)[0]
    y = (np.arange(33) % 3).astype("int32")

    def build(seed: int) -> keras.Model:
        keras.utils.set_random_seed(seed)
        return keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])

    compare(
        lambda: optimizers.Adam(0.02),
        build=build,
        arrays=(x, y),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        fit={"class_weight": {0: 0.5, 1: 2.0, 2: 3.0}},
    )
