"""Training steps of one's own: in train_step, with two optimizers, with a tape, in a loop."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.marks import long
from checks.reference import (
    BATCH,
    STEPS,
    compare_with_one_process,
    data,
    mlp,
    my_rows,
    same_on_all_ranks,
)
from keras import optimizers

import hvdkit as hvd


class OwnStepModel(keras.Model):
    """A functional model with a train_step of its own that does not call scale_loss."""

    def train_step(self, batch: Any) -> dict[str, Any]:
        x, y = batch
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


def _own_step(seed: int) -> keras.Model:
    model = mlp(seed)
    return OwnStepModel(model.inputs, model.outputs)


def check_custom_train_step() -> None:
    for jit in (False, True):
        compare_with_one_process(
            _own_step,
            lambda: optimizers.Adam(0.02),
            lambda: hvd.DistributedOptimizer(optimizers.Adam(0.02)),
            compile_options={"jit_compile": jit},
        )


@long
def check_custom_train_step_on_uneven_data() -> None:
    x, y = data(2 * hvd.size() * BATCH + 1)
    reference = mlp(0)
    start = reference.get_weights()
    reference.compile(optimizer=optimizers.SGD(0.1), loss="mse")
    reference.fit(x, y, batch_size=hvd.size() * BATCH, shuffle=False, verbose=0)
    model = _own_step(0)
    model.set_weights(start)
    model.compile(optimizer=hvd.DistributedOptimizer(optimizers.SGD(0.1)), loss="mse")
    model.fit(hvd.shard((x, y), BATCH, shuffle=False), verbose=0)
    for mine, theirs in zip(model.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def check_two_optimizers_in_one_step() -> None:
    """As in a GAN: two reductions of equally shaped gradients in one graph."""
    a, b = keras.Variable([1.0, 1.0]), keras.Variable([1.0, 1.0])
    first, second = (hvd.DistributedOptimizer(optimizers.SGD(1.0)) for _ in range(2))
    first.build([a])
    second.build([b])

    @tf.function
    def step(rank: tf.Tensor) -> None:
        first.apply([tf.stack([rank, 0.0])], [a])
        second.apply([tf.stack([0.0, rank])], [b])

    step(tf.constant(float(hvd.rank())))
    mean_rank = (hvd.size() - 1) / 2
    np.testing.assert_allclose(a.numpy(), [1 - mean_rank, 1])
    np.testing.assert_allclose(b.numpy(), [1, 1 - mean_rank])


def _loop_reference() -> tuple[Any, Any, Any]:
    x, y = data(hvd.size() * BATCH * STEPS)
    reference = mlp(0)
    start = reference.get_weights()
    reference.compile(optimizer=optimizers.Adam(0.02), loss="mse")
    reference.fit(x, y, batch_size=hvd.size() * BATCH, shuffle=False, verbose=0)
    return (x, y), start, reference.get_weights()


def _run_loop(mode: str, graph: bool) -> None:
    (x, y), start, expected = _loop_reference()
    model = mlp(100 + hvd.rank())
    if hvd.rank() == 0:
        model.set_weights(start)
    optimizer = (
        optimizers.Adam(0.02) if mode == "tape" else hvd.DistributedOptimizer(optimizers.Adam(0.02))
    )
    optimizer.build(model.trainable_variables)
    hvd.broadcast_variables(model.variables, root_rank=0)
    hvd.broadcast_variables(optimizer.variables, root_rank=0)
    loss_fn = keras.losses.MeanSquaredError()

    def step(bx: tf.Tensor, by: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = loss_fn(by, model(bx, training=True))
        if mode == "tape":
            tape = hvd.DistributedGradientTape(tape)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    run = tf.function(step) if graph else step
    for number in range(STEPS):
        run(tf.constant(my_rows(x, number)), tf.constant(my_rows(y, number)))
    same_on_all_ranks(model)
    for mine, theirs in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-4, atol=2e-5)


@long
def check_loop_with_tape() -> None:
    _run_loop("tape", graph=False)
    _run_loop("tape", graph=True)


@long
def check_loop_with_apply_gradients() -> None:
    _run_loop("optimizer", graph=False)
    _run_loop("optimizer", graph=True)
