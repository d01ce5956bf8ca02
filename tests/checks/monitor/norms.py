"""Norms of gradients are those of the job."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.marks import long
from checks.monitor.figures import BATCH
from checks.monitor.kept import monitored
from checks.reference import data, mlp

import hvdkit as hvd
from hvdkit.exchange import Sharded


def _norms(optimizer: Any, build: Callable[[], keras.Model] = lambda: mlp(0)) -> list[float]:
    model = build()
    x, y = data(hvd.size() * BATCH * 4)
    model.compile(optimizer, "mse")
    kept = monitored(model, hvd.shard((x, y), BATCH, shuffle=False), every=1)
    return [sample.values["gradient_norm"] for sample in kept.of_steps]


def _expected_norms(optimizer: Any) -> list[float]:
    """Of one process with the rows of all ranks."""
    model, found = mlp(0), []
    x, y = data(hvd.size() * BATCH * 4)
    rows = hvd.size() * BATCH
    for i in range(4):
        own = slice(i * rows, (i + 1) * rows)
        with tf.GradientTape() as tape:
            loss = keras.losses.MeanSquaredError()(y[own], model(x[own], training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        found.append(float(tf.linalg.global_norm(gradients)))
        optimizer.apply(gradients, model.trainable_variables)
    return found[1:]


@long
def check_norms_are_those_of_the_global_batch_before_clipping() -> None:
    """Of shards of gradients."""
    plain = lambda: keras.optimizers.Adam(0.05, global_clipnorm=0.1)  # noqa: E731
    expected = _expected_norms(plain())
    norms = _norms(hvd.DistributedOptimizer(plain(), exchange=Sharded()))
    np.testing.assert_allclose(norms, expected, rtol=1e-4)


@long
def check_norms_of_whole_gradients() -> None:
    plain = lambda: keras.optimizers.Adam(0.05, global_clipnorm=0.1)  # noqa: E731
    norms = _norms(hvd.DistributedOptimizer(plain()))
    np.testing.assert_allclose(norms, _expected_norms(plain()), rtol=1e-4)


@long
def check_norms_of_rules_that_update_whole_variables() -> None:
    expected = _expected_norms(keras.optimizers.Adafactor(0.05))
    optimizer = hvd.DistributedOptimizer(keras.optimizers.Adafactor(0.05), exchange=Sharded())
    np.testing.assert_allclose(_norms(optimizer), expected, rtol=1e-4)


@long
def check_norms_of_sparse_gradients_and_of_several_optimizers() -> None:
    size, rows = hvd.size(), hvd.size() * BATCH
    ids = np.random.default_rng(0).integers(0, 9, (3 * rows, 4)).astype("int32")
    y = ids[:, :1].astype("float32")

    def build() -> keras.Model:
        keras.utils.set_random_seed(1)
        layers = [keras.layers.Embedding(9, 3), keras.layers.Flatten(), keras.layers.Dense(1)]
        return keras.Sequential([keras.Input((4,), dtype="int32"), *layers])

    model = build()
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.0)), "mse")
    kept = monitored(model, hvd.shard((ids, y), BATCH, shuffle=False), every=1)
    reference = build()
    for step, sample in enumerate(kept.of_steps, 1):
        own = slice(step * rows, (step + 1) * rows)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((reference(ids[own]) - y[own]) ** 2)
        gradients = tape.gradient(loss, reference.trainable_variables)
        dense = [tf.convert_to_tensor(g) for g in gradients]
        norm = float(tf.linalg.global_norm(dense))
        np.testing.assert_allclose(sample.values["gradient_norm"], norm, rtol=1e-4)
    assert size == len(kept.jobs[0].hosts)


@long
def check_norms_of_two_optimizers_are_put_together() -> None:
    """Of a model without a `call`, and with a step of its own."""

    class Two(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.parts = [keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)])] * 1
            self.parts.append(keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)]))

        def train_step(self, batch: Any) -> dict[str, Any]:
            x, y = batch
            norms = []
            for part, optimizer in zip(self.parts, self.optimizers, strict=True):
                with tf.GradientTape() as tape:
                    loss = tf.reduce_mean((part(x, training=True) - y) ** 2)
                gradients = tape.gradient(loss, part.trainable_variables)
                norms.append(tf.linalg.global_norm(gradients))
                optimizer.apply(gradients, part.trainable_variables)
            return {"first": norms[0], "second": norms[1]}

    keras.utils.set_random_seed(0)
    model = Two()
    model.optimizers = [hvd.DistributedOptimizer(keras.optimizers.SGD(0.0)) for _ in range(2)]
    model.compile(model.optimizers[0])
    x, y = data(6)  # the same on all ranks
    kept = monitored(model, (tf.constant(x)), y=tf.constant(y), batch_size=6, every=1, epochs=2)
    logs = kept.of_epochs[-1].values
    expected = math.hypot(logs["first"], logs["second"])
    np.testing.assert_allclose(kept.of_steps[-1].values["gradient_norm"], expected, rtol=1e-5)
    assert kept.jobs[0].parameters["parameters"] == 28
