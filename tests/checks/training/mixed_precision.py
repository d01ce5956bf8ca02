"""Mixed precision: the loss scale is one on all ranks."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.marks import long
from checks.reference import BATCH, STEPS, compare_with_one_process, data
from keras import optimizers

import hvdkit as hvd


class HalfModel(keras.Model):
    """A model whose own policy is mixed_float16, so that compile() wraps its optimizer."""

    def __init__(self, seed: int) -> None:
        super().__init__(dtype="mixed_float16")
        keras.utils.set_random_seed(seed)
        self.hidden = keras.layers.Dense(8, activation="tanh", dtype="mixed_float16")
        self.out = keras.layers.Dense(2, dtype="float32")

    def build(self, shape: Any) -> None:
        self.hidden.build(shape)
        self.out.build((None, 8))
        self.built = True

    def call(self, x: Any) -> Any:
        return self.out(self.hidden(x))


def _build_half(seed: int) -> keras.Model:
    model = HalfModel(seed)
    model.build((None, 6))
    return model


def _small_rows() -> tuple[np.ndarray, np.ndarray]:
    """Targets so small that the scaled gradients overflow float16 with neither batch size."""
    x, y = data(hvd.size() * BATCH * STEPS)
    return x * 0.1, y * 0.01


@long
def check_mixed_float16_wrapped_by_compile() -> None:
    model = compare_with_one_process(
        _build_half,
        lambda: optimizers.SGD(0.1),
        lambda: hvd.DistributedOptimizer(optimizers.SGD(0.1)),
        rows=_small_rows(),
        rtol=2e-2,
        atol=2e-3,
    )
    assert isinstance(model.optimizer, optimizers.LossScaleOptimizer)


def _wrap_by_hand(*, jit_compile: bool) -> None:
    compare_with_one_process(
        _build_half,
        lambda: optimizers.LossScaleOptimizer(optimizers.Adam(0.02)),
        lambda: hvd.DistributedOptimizer(optimizers.LossScaleOptimizer(optimizers.Adam(0.02))),
        rows=_small_rows(),
        rtol=2e-2,
        atol=2e-3,
        compile_options={"jit_compile": jit_compile},
    )


@long
def check_mixed_float16_wrapped_by_the_user() -> None:
    _wrap_by_hand(jit_compile=False)


@long
def check_mixed_float16_wrapped_by_the_user_with_xla() -> None:
    _wrap_by_hand(jit_compile=True)


def _apply_step(optimizer: Any, variable: keras.Variable, *, eager: bool) -> Any:
    def step(gradient: tf.Tensor) -> None:
        optimizer.apply([gradient], [variable])

    return step if eager else tf.function(step)


def check_overflow_on_one_rank_skips_the_step_on_all() -> None:
    orders = (
        lambda o: hvd.DistributedOptimizer(optimizers.LossScaleOptimizer(o, initial_scale=2.0**10)),
        lambda o: optimizers.LossScaleOptimizer(hvd.DistributedOptimizer(o), initial_scale=2.0**10),
    )
    for make in orders:
        for eager in (False, True):
            variable = keras.Variable([1.0, 2.0])
            optimizer = make(optimizers.SGD(0.1))
            optimizer.build([variable])
            run = _apply_step(optimizer, variable, eager=eager)
            last = hvd.rank() == hvd.size() - 1
            run(tf.constant([np.inf if last else 1.0, 1.0]))
            np.testing.assert_array_equal(variable.numpy(), [1.0, 2.0])
            assert float(optimizer.dynamic_scale) == 2.0**9
            run(tf.constant([1.0, float(hvd.rank())]) * 2.0**9)
            mean_rank = (hvd.size() - 1) / 2
            np.testing.assert_allclose(variable.numpy(), [0.9, 2.0 - 0.1 * mean_rank], rtol=1e-6)
