"""Activations of 16 bits travel as they are, and all stages agree on the scale of the loss."""

from __future__ import annotations

import keras
import numpy as np
from checks.marks import long
from checks.pipeline_parallel.comparison import pipeline_model

import hvdkit as hvd


def build() -> keras.Model:
    """At first its outputs do not depend on the inputs, however large they are."""
    first = keras.layers.Dense(8, activation="tanh", kernel_initializer="zeros")
    layers = [keras.layers.Dense(8, activation="tanh") for _ in range(7)]
    last = keras.layers.Dense(2, dtype="float32")
    return keras.Sequential([keras.Input((6,)), first, *layers, last])


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(24, 6)).astype("float32")
    return x, (x @ rng.normal(size=(6, 2))).astype("float32")


@long
def check_a_step_that_is_not_finite_is_skipped_by_all() -> None:
    """The first stage's gradients overflow; no stage updates, and all halve the scale."""
    x, y = data()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = pipeline_model(build, micro_batches=4)
        model.compile(keras.optimizers.SGD(0.05), "mse")
        before = [v.numpy() for v in model.trainable_variables]
        model.train_on_batch(np.full((12, 6), 6e4, "float32"), y[:12])
        skipped = [v.numpy() for v in model.trainable_variables]
        scale = float(model.optimizer.dynamic_scale.numpy())
        model.train_on_batch(x[:12], y[:12])
    finally:
        keras.config.set_dtype_policy("float32")
    assert set(hvd.allgather_object(scale)) == {model.optimizer.initial_scale / 2}
    for value, first in zip(skipped, before, strict=True):
        np.testing.assert_array_equal(value, first)
    trained = [v.numpy() for v in model.trainable_variables]
    assert any(not np.array_equal(*pair) for pair in zip(trained, before, strict=True))
