"""Gradients that are exchanged and applied one step late."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.exchanges.kinds import ErrorFeedback
from checks.marks import long
from checks.reference import data, mlp, same_on_all_ranks
from checks.rounds.steps import COMPILE, close, gradients, mean_over_ranks, run, together, variables
from keras import optimizers

import hvdkit as hvd
from hvdkit.exchange import AllReduce, Delayed


def _late(optimizer: Any, exchange: Any = None, **options: Any) -> Any:
    return hvd.DistributedOptimizer(optimizer, exchange=exchange or Delayed(), **options)


@long
def check_each_step_applies_the_mean_of_the_last_one() -> None:
    if hvd.size() == 1:
        return
    for compile_step in COMPILE:
        values = run(_late(optimizers.SGD(0.5, momentum=0.9)), 5, compile_step)
        own = [v.numpy().astype(float) for v in variables()]
        momentum = [np.zeros(v.shape) for v in own]
        for step, found in enumerate(values):
            if step:
                given = mean_over_ranks(gradients(step - 1))
                momentum = [0.9 * m - 0.5 * g for m, g in zip(momentum, given, strict=True)]
                own = [v + m for v, m in zip(own, momentum, strict=True)]
            close(found, own)
            assert together(found)


def check_the_first_step_applies_zeros_and_counts() -> None:
    if hvd.size() == 1:
        return
    optimizer = _late(optimizers.AdamW(0.1, weight_decay=0.5))
    (after,) = run(optimizer, 1)
    close(after, [0.95 * v.numpy() for v in variables()])
    assert int(optimizer.iterations) == 1


@long
def check_no_delay_is_an_allreduce() -> None:
    for late, plain in zip(
        run(_late(optimizers.Adam(0.1), Delayed(0)), 4),
        run(_late(optimizers.Adam(0.1), AllReduce()), 4),
        strict=True,
    ):
        close(late, plain, 0, 0)


@long
def check_what_an_inner_exchange_remembers_goes_on() -> None:
    """The residuals of a late exchange are those of a prompt one, a step later."""
    if hvd.size() == 1:
        return
    prompt, late = (
        run(hvd.DistributedOptimizer(optimizers.SGD(0.5), exchange=exchange), 5)
        for exchange in (_one_bit(), Delayed(exchange=_one_bit()))
    )
    for mine, expected in zip(late[1:], prompt[:-1], strict=True):
        close(mine, expected)


def _one_bit() -> AllReduce:
    return AllReduce(hvd.exchange.ErrorFeedback(hvd.exchange.OneBit()))


@long
def check_the_exchange_waits_for_nothing_of_its_own_step() -> None:
    """In the graph no collective comes after an operation of the forward or backward pass."""
    if hvd.size() == 1:
        return
    for options in ({}, {"global_clipnorm": 1.0}):
        late, plain = (
            _ancestors_of_collectives(exchange, options) for exchange in (Delayed(), AllReduce())
        )
        assert "MatMul" in plain  # so looking for it proves something
        assert not {"MatMul", "Tanh", "TanhGrad"} & late, late


def _ancestors_of_collectives(exchange: Any, options: dict[str, Any]) -> set[str]:
    """The kinds of operations that the collectives of a step wait for."""
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(2)]
    )
    optimizer = _late(optimizers.Adam(0.1, **options), exchange)
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(x: Any) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model(x) ** 2)
        given = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(given, model.trainable_variables, strict=True))

    graph = step.get_concrete_function(tf.TensorSpec([4, 6])).graph
    found: set[Any] = set()
    waiting = [op for op in graph.get_operations() if "Horovod" in op.type]
    assert waiting
    while waiting:
        op = waiting.pop()
        if op not in found:
            found.add(op)
            waiting += [*op.control_inputs, *(tensor.op for tensor in op.inputs)]
    return {op.type for op in found}


def check_sparse_gradients_are_applied_as_dense_ones() -> None:
    if hvd.size() == 1:
        return
    table = keras.Variable(np.zeros((8, 2), "float32"))
    optimizer = _late(optimizers.SGD(1.0))
    optimizer.build([table])

    @tf.function
    def step(values: Any, indices: Any) -> None:
        optimizer.apply([tf.IndexedSlices(values, indices, tf.constant([8, 2]))])

    rank, size = hvd.rank(), hvd.size()
    for _ in range(3):
        step(tf.ones([1 + rank, 2]), tf.range(1 + rank))
    of_all = np.array([[1.0 if row < 1 + r else 0.0 for row in range(8)] for r in range(size)])
    close([table.numpy()], [-2 * np.tile(of_all.mean(axis=0)[:, None], 2)])


def check_what_is_not_finite_is_left_out_one_step_late() -> None:
    if hvd.size() == 1:
        return
    weight = keras.Variable([0.0])
    optimizer = _late(optimizers.SGD(1.0), nonfinite=hvd.nonfinite.Skip())
    optimizer.build([weight])
    apply = tf.function(lambda gradient: optimizer.apply([gradient]))
    bad = np.nan if hvd.rank() == 0 else 1.0
    seen = []
    for value in (1.0 + hvd.rank(), bad, 10.0 * (1.0 + hvd.rank()), 0.0):
        apply(tf.constant([value], tf.float32))
        seen.append(float(weight.numpy()[0]))
    mean = (hvd.size() + 1) / 2
    np.testing.assert_allclose(seen, [0.0, -mean, -mean, -11 * mean])
    assert optimizer.nonfinite_steps == 1
    assert int(optimizer.iterations) == 3


def check_loss_scaling_keeps_no_bad_gradient() -> None:
    if hvd.size() == 1:
        return
    weight = keras.Variable([0.0])
    optimizer = _late(optimizers.LossScaleOptimizer(optimizers.SGD(1.0), initial_scale=1.0))
    optimizer.build([weight])
    bad = np.inf if hvd.rank() == 0 else 1.0
    seen = []
    for value in (1.0 + hvd.rank(), bad, 0.0, 0.0):
        optimizer.apply([tf.constant([value], tf.float32)])
        seen.append(float(weight.numpy()[0]))
    mean = (hvd.size() + 1) / 2
    np.testing.assert_allclose(seen, [0.0, 0.0, -mean, -mean])


@long
def check_accumulation_and_error_feedback_in_fit() -> None:
    x, y = data(16, seed=hvd.rank())
    ends = []
    for options in ({}, {"run_eagerly": True}, {"steps_per_execution": 2}):
        model = mlp(3)
        exchange = Delayed(exchange=AllReduce(ErrorFeedback()))
        model.compile(
            _late(optimizers.SGD(0.05, gradient_accumulation_steps=2), exchange), "mse", **options
        )
        history = model.fit(x, y, batch_size=4, epochs=4, verbose=0, shuffle=False).history
        assert history["loss"][-1] < history["loss"][0]
        same_on_all_ranks(model)
        ends.append(model.get_weights())
    for other in ends[1:]:
        close(other, ends[0], rtol=1e-3, atol=1e-5)
