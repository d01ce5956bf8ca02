"""Activations of 16 bits travel as they are, and all stages agree on the scale of the loss."""

from __future__ import annotations

import keras
import numpy as np
from checks.pipeline_parallel.comparison import pipeline_model

import hvdkit as hvd
from hvdkit.mesh.mesh import current_mesh


def build() -> keras.Model:
    layers = [keras.layers.Dense(8, activation="tanh") for _ in range(8)]
    last = keras.layers.Dense(2, dtype="float32")
    return keras.Sequential([keras.Input((6,)), *layers, last])


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(24, 6)).astype("float32")
    return x, (x @ rng.normal(size=(6, 2))).astype("float32")


def check_a_step_that_is_not_finite_is_skipped_by_all() -> None:
    """Where one stage's gradients overflow, no stage updates, and all halve the scale."""
    x, y = data()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = pipeline_model(build, micro_batches=4)
        model.compile(keras.optimizers.SGD(0.05), "mse")
        model.train_on_batch(x[:12], y[:12])
        scale = float(model.optimizer.dynamic_scale.numpy())
        before = [v.numpy() for v in model.trainable_variables]
        # Huge in the first layer's gradient only: the input is multiplied there.
        model.train_on_batch(np.full((12, 6), 3e4, "float32"), y[:12])
    finally:
        keras.config.set_dtype_policy("float32")
    scales = hvd.allgather_object(float(model.optimizer.dynamic_scale.numpy()))
    assert set(scales) == {scale / 2}, (scales, scale, current_mesh().pipeline_index)
    for variable, value in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
