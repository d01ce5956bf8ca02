"""With a staleness of 0, and with a single worker, it is synchronous training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.marks import long
from checks.parameter_server.small import BATCH, compiled, same_everywhere
from checks.reference import data, mlp
from keras import optimizers

import hvdkit as hvd
from hvdkit.exchange import ParameterServer

Built = Callable[[int], keras.Model]


def _one_process(
    build: Built, optimizer: Any, rows: Any, batch: int, epochs: int, loss: str = "mse"
) -> list[np.ndarray]:
    model = build(0)
    model.compile(optimizer, loss)
    model.fit(*rows, batch_size=batch, epochs=epochs, shuffle=False, verbose=0)
    return [np.asarray(w) for w in model.get_weights()]


def _is_one_process(
    optimizer: Callable[[], Any],
    *,
    servers: int = 1,
    staleness: int | None = 0,
    build: Built = mlp,
    rows: Any = None,
    epochs: int = 2,
    accumulated: int = 1,
    fits: int = 1,
    **options: Any,
) -> None:
    """Ranks that start from other weights end as one process with the batches of all workers.

    In a second `fit` the servers keep their slots, and go on counting, whatever is sent at its
    start.
    """
    workers = hvd.size() - servers
    rows = rows or data(3 * workers * BATCH * accumulated)
    plain = optimizer()
    plain.gradient_accumulation_steps = None
    expected = _one_process(build, plain, rows, workers * BATCH * accumulated, epochs)

    exchange = ParameterServer(servers, staleness)
    model = build(0 if hvd.rank() == 0 else 100 + hvd.rank())
    compiled(model, exchange, optimizer(), **options)
    shard = hvd.shard(rows, BATCH, shuffle=False)
    for _ in range(fits):
        broadcast = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
        model.fit(shard, epochs=epochs // fits, verbose=0, callbacks=[broadcast])
    same_everywhere(model.get_weights())
    for mine, theirs in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-4, atol=2e-5)


def _decaying() -> Any:
    return optimizers.schedules.ExponentialDecay(0.1, 2, 0.7)


@long
def check_no_staleness_with_a_schedule_decay_and_clipping_on_rows_that_do_not_divide() -> None:
    workers = hvd.size() - 1
    _is_one_process(
        lambda: optimizers.AdamW(_decaying(), weight_decay=0.05, global_clipnorm=0.1),
        rows=data(2 * workers * BATCH + workers + 1),
        fits=2,
    )


@long
def check_no_staleness_eagerly() -> None:
    _is_one_process(lambda: optimizers.SGD(0.1, 0.9, clipvalue=0.05), run_eagerly=True)


@long
def check_no_staleness_with_steps_in_one_graph() -> None:
    _is_one_process(lambda: optimizers.Adam(0.01, clipnorm=0.1), steps_per_execution=3)


@long
def check_no_staleness_with_steps_that_xla_compiles() -> None:
    _is_one_process(lambda: optimizers.SGD(0.1, 0.9), jit_compile=True)


@long
def check_one_worker_of_two_servers_is_one_process() -> None:
    """Each server updates its own variables; nobody is ahead of anybody."""
    if hvd.size() == 3:
        _is_one_process(lambda: optimizers.Adam(_decaying()), servers=2, staleness=None)


@long
def check_accumulated_gradients_are_pushed_once() -> None:
    """Of equal batches, so that it does not matter which of them a worker adds up."""
    x, y = data(BATCH)
    workers = hvd.size() - 1
    rows = tuple(np.repeat(a, 4 * workers, axis=0) for a in (x, y))
    _is_one_process(
        lambda: optimizers.Adam(0.05, gradient_accumulation_steps=2),
        rows=rows,
        accumulated=2,
        epochs=2,
    )


@long
def check_sparse_gradients() -> None:
    def embedding(seed: int) -> keras.Model:
        keras.utils.set_random_seed(seed)
        return keras.Sequential(
            [
                keras.Input((3,), dtype="int32"),
                keras.layers.Embedding(7, 4),
                keras.layers.Flatten(),
                keras.layers.Dense(2),
            ]
        )

    workers = hvd.size() - 1
    rng = np.random.default_rng(3)
    x = rng.integers(0, 7, (2 * workers * BATCH, 3)).astype("int32")
    y = rng.normal(size=(len(x), 2)).astype("float32")
    _is_one_process(lambda: optimizers.SGD(0.1, 0.9), build=embedding, rows=(x, y))


class OwnStep(keras.Model):
    """A model with a training step of its own, and a variable that has no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(2)
        self.unused = self.add_weight(shape=(3,), name="unused")

    def call(self, x: Any) -> Any:
        return self.dense(x)

    def train_step(self, batch: Any) -> Any:
        x, y = batch
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self(x) - y))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


@long
def check_a_step_of_ones_own() -> None:
    def build(seed: int) -> keras.Model:
        keras.utils.set_random_seed(seed)
        model = OwnStep()
        model(np.zeros((1, 6), "float32"))
        return model

    _is_one_process(lambda: optimizers.SGD(0.1), build=build)


@long
def check_every_optimizer() -> None:
    for name in ("Adadelta", "Adafactor", "Adagrad", "Adamax", "Ftrl", "Lamb", "Lion", "Muon"):
        if hasattr(optimizers, name):
            _is_one_process(getattr(optimizers, name), epochs=1)
    _is_one_process(optimizers.Nadam, epochs=1)
    _is_one_process(optimizers.RMSprop, epochs=1)


@long
def check_loss_scaling() -> None:
    workers = hvd.size() - 1
    rows = data(2 * workers * BATCH)
    plain = _one_process(mlp, optimizers.SGD(0.1), rows, workers * BATCH, 1)
    model = mlp(0 if hvd.rank() == 0 else hvd.rank())
    scaling = optimizers.LossScaleOptimizer(optimizers.SGD(0.1), initial_scale=8.0)
    compiled(model, ParameterServer(staleness=0), scaling)
    broadcast = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
    model.fit(hvd.shard(rows, BATCH, shuffle=False), verbose=0, callbacks=[broadcast])
    for mine, theirs in zip(model.get_weights(), plain, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-4, atol=2e-5)
