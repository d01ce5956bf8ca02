"""Ranks that have made more layers, optimizers and graphs than others train like the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.marks import long
from checks.reference import mlp, same_on_all_ranks
from keras import layers, optimizers

import hvdkit as hvd
from hvdkit import exchange as ways


def _more_on_rank_0() -> None:
    if hvd.rank() == 0:
        for _ in range(2):
            optimizers.Adam()
            mlp(0).compile(hvd.DistributedOptimizer("adam"), "mse")
            tf.function(lambda v: v + 1)(1)


def _ids_and_sums() -> tuple[np.ndarray, np.ndarray]:
    ids = np.random.default_rng(hvd.rank()).integers(0, 50, (16, 5))
    return ids, ids.sum(1, keepdims=True).astype("float32")


@long
def check_sparse_gradients_and_statistics() -> None:
    _more_on_rank_0()
    model = keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            layers.Embedding(50, 8),
            layers.Flatten(),
            hvd.SyncBatchNormalization(),
            layers.Dense(4, activation="relu"),
            hvd.SyncBatchNormalization(),
            layers.Dropout(0.1),
            layers.Dense(1),
        ]
    )
    model.compile(hvd.DistributedOptimizer(optimizers.Adam(0.01, global_clipnorm=1.0)), "mse")
    start = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
    model.fit(*_ids_and_sums(), batch_size=8, epochs=2, verbose=0, callbacks=[start])
    same_on_all_ranks(model)


def _diloco() -> ways.LocalSGD:
    return ways.LocalSGD(every=2, outer=optimizers.SGD(0.7, momentum=0.9, nesterov=True))


@long
def check_all_exchanges() -> None:
    """Each ends, with the weights that it has where names are alike on all ranks."""
    makers: list[Callable[[], Any]] = [
        lambda: ways.AllReduce(ways.PowerSGD(2)),
        lambda: ways.AllReduce(ways.TopK(0.1)),
        lambda: ways.AllReduce(ways.ErrorFeedback(ways.OneBit())),
        lambda: ways.AllReduce(ways.Int8()),
        lambda: ways.AllReduce(ways.Hierarchical()),
        ways.Sharded,
        lambda: ways.Sharded(stage=2),
        ways.Delayed,
        lambda: ways.LocalSGD(every=2),
        _diloco,
    ]
    if hvd.mpi_enabled():
        makers += [lambda: ways.Gossip("ring"), lambda: ways.ParameterServer(staleness=0)]
    for make in makers:
        alike = _trained(make())
        _more_on_rank_0()
        for mine, expected in zip(_trained(make()), alike, strict=True):
            np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=1e-7)
        keras.backend.clear_session()


def _trained(exchange: Any) -> list[np.ndarray]:
    """Weights of a model with sparse gradients and a variable that travels alone."""
    keras.utils.set_random_seed(1)
    embedding = layers.Embedding(40_000, 8)
    model = keras.Sequential(
        [keras.Input((5,), dtype="int32"), embedding, layers.Flatten(), layers.Dense(1)]
    )
    optimizer = optimizers.SGD(0.01, gradient_accumulation_steps=2)
    model.compile(hvd.DistributedOptimizer(optimizer, exchange=exchange), "mse")
    model.fit(*_ids_and_sums(), batch_size=4, shuffle=False, verbose=0)
    return model.get_weights()


@long
def check_normalization_inside_a_recurrent_layer() -> None:
    _more_on_rank_0()

    class Cell(layers.Layer):
        state_size = 4
        output_size = 4

        def __init__(self) -> None:
            super().__init__()
            self.normalization = hvd.SyncBatchNormalization()
            self.dense = layers.Dense(4)

        def call(self, inputs: tf.Tensor, states: list, training: bool = False) -> tuple:
            new = self.normalization(self.dense(inputs) + states[0], training=training)
            return new, [new]

    model = keras.Sequential([keras.Input((3, 4)), layers.RNN(Cell()), layers.Dense(1)])
    model.compile(hvd.DistributedOptimizer(optimizers.SGD(0.01)), "mse")
    x = np.random.default_rng(hvd.rank()).normal(size=(8, 3, 4)).astype("float32")
    start = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
    model.fit(x, x.sum((1, 2)), batch_size=4, verbose=0, callbacks=[start])
    same_on_all_ranks(model)


@long
def check_two_optimizers_in_one_graph_and_by_turns() -> None:
    """A step of a GAN: both halves are reduced in one graph, and a layer is called twice."""
    _more_on_rank_0()
    generator, judge = mlp(1), keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    hvd.broadcast_variables([*generator.variables, *judge.variables], 0)
    pair = [hvd.DistributedOptimizer(optimizers.Adam(0.01)) for _ in range(2)]
    for optimizer, model in zip(pair, (generator, judge), strict=True):
        optimizer.build(model.trainable_variables)

    @tf.function
    def step(noise: tf.Tensor, real: tf.Tensor, turn: int) -> None:
        with tf.GradientTape(persistent=True) as tape:
            fake = judge(generator(noise))
            losses = (
                tf.reduce_mean((fake - 1.0) ** 2),
                tf.reduce_mean(fake**2) + tf.reduce_mean((judge(real) - 1.0) ** 2),
            )
        for i, model in enumerate((generator, judge)):
            if turn in (i, 2):
                gradients = tape.gradient(losses[i], model.trainable_variables)
                pair[i].apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    drawn = np.random.default_rng(hvd.rank()).normal(size=(4, 8)).astype("float32")
    for turn in (2, 0, 1, 2, 1, 0):
        step(drawn[:, :6], drawn[:, 6:], turn)
    for model in (generator, judge):
        same_on_all_ranks(model)


@long
def check_variables_are_broadcast_in_the_first_step() -> None:
    """As Horovod's tensorflow2_mnist.py has it: on the root nothing uses what is sent."""
    _more_on_rank_0()
    for layer in (layers.Dropout(0.5), layers.BatchNormalization()):
        model = keras.Sequential([keras.Input((4,)), layers.Dense(3), layer, layers.Dense(1)])
        optimizer = optimizers.Adam(0.01)
        x = tf.constant(np.random.default_rng(hvd.rank()).normal(size=(8, 4)), tf.float32)

        @tf.function
        def step(first: bool, model=model, optimizer=optimizer, x=x) -> None:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((model(x, training=True) - 1.0) ** 2)
            tape = hvd.DistributedGradientTape(tape)
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
            if first:
                hvd.broadcast_variables(model.variables, root_rank=0)
                hvd.broadcast_variables(optimizer.variables, root_rank=0)

        for i in range(3):
            step(i == 0)
        weights = hvd.allgather_object([v.numpy() for v in model.trainable_variables])
        for mine, theirs in zip(weights[0], weights[-1], strict=True):
            np.testing.assert_array_equal(mine, theirs)
