"""An exchange that works on weights: ranks step alone and meet every few steps."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.exchanges.kinds import LocalSteps
from checks.marks import long
from checks.reference import data, mlp, same_on_all_ranks
from keras import optimizers

import hvdkit as hvd
from hvdkit.exchange import AllReduce, Role
from hvdkit.optimizers.composition import tracked_of


def _expected(gradients: list[np.ndarray], every: int, momentum: float) -> list[np.ndarray]:
    """This rank's weight after each step of SGD(0.5), from 0."""
    own = anchor = velocity = np.zeros(3)
    values = []
    for step, gradient in enumerate(gradients):
        own = own - 0.5 * gradient
        if (step + 1) % every == 0:
            mean = np.mean(hvd.allgather_object(own), axis=0)
            velocity = momentum * velocity + anchor - mean
            own = anchor = anchor - velocity
        values.append(own)
    return values


def check_ranks_meet_after_every_third_update() -> None:
    rng = np.random.default_rng(hvd.rank())
    gradients = [rng.normal(size=3).astype("float32") for _ in range(7)]
    expected = _expected(gradients, 3, 0.5)
    for compile_step in (lambda step: step, tf.function):
        variable = keras.Variable([0.0, 0.0, 0.0])
        exchange = LocalSteps(3, 0.5)
        optimizer = hvd.DistributedOptimizer(optimizers.SGD(0.5), exchange=exchange)
        optimizer.build([variable])
        step = compile_step(lambda gradient, o=optimizer: o.apply([gradient]))
        for gradient, value in zip(gradients, expected, strict=True):
            step(tf.constant(gradient))
            np.testing.assert_allclose(variable.numpy(), value, rtol=1e-5, atol=1e-6)


@long
def check_updates_are_counted_and_not_micro_steps() -> None:
    variable = keras.Variable([0.0])
    optimizer = hvd.DistributedOptimizer(
        optimizers.SGD(1.0, gradient_accumulation_steps=2), exchange=LocalSteps(2)
    )
    optimizer.build([variable])
    apply = tf.function(lambda gradient: optimizer.apply([gradient]))
    for step in range(8):
        apply(tf.constant([hvd.rank() + 1.0]))
        everyone = np.array(hvd.allgather_object(float(variable.numpy()[0])))
        updates = (step + 1) // 2
        if updates % 2 == 0:
            np.testing.assert_allclose(everyone, -updates * (hvd.size() + 1) / 2)
        else:
            met = -(updates - 1) * (hvd.size() + 1) / 2
            np.testing.assert_allclose(everyone, met - np.arange(1, hvd.size() + 1))


def check_what_is_not_finite_on_one_rank_is_left_out_on_all() -> None:
    """Neither the update happens nor the meeting; gradients differ, so the ranks ask each other."""
    variable = keras.Variable([0.0])
    optimizer = hvd.DistributedOptimizer(
        optimizers.SGD(1.0), exchange=LocalSteps(2), nonfinite=hvd.nonfinite.Skip()
    )
    optimizer.build([variable])
    apply = tf.function(lambda gradient: optimizer.apply([gradient]))
    apply(tf.constant([hvd.rank() + 1.0]))
    apply(tf.constant([np.nan if hvd.rank() == 0 else 1.0], tf.float32))
    np.testing.assert_allclose(variable.numpy(), [-(hvd.rank() + 1.0)])
    assert optimizer.nonfinite_steps == 1
    assert int(optimizer.iterations) == 1
    apply(tf.constant([hvd.rank() + 1.0]))
    np.testing.assert_allclose(variable.numpy(), [-(hvd.size() + 1.0)])


def check_loss_scaling_asks_all_ranks() -> None:
    variable = keras.Variable([0.0])
    inner = optimizers.SGD(1.0)
    optimizer = hvd.DistributedOptimizer(
        optimizers.LossScaleOptimizer(inner, initial_scale=4.0), exchange=LocalSteps(2)
    )
    optimizer.build([variable])
    optimizer.apply([tf.constant([np.inf if hvd.rank() == 0 else 4.0], tf.float32)])
    np.testing.assert_allclose(variable.numpy(), [0.0])
    assert float(optimizer.dynamic_scale) == 2.0
    optimizer.apply([tf.constant([2.0 * (hvd.rank() + 1)])])
    np.testing.assert_allclose(variable.numpy(), [-(hvd.rank() + 1.0)])


def check_local_variables_are_no_business_of_an_exchange() -> None:
    shared, own = keras.Variable([0.0]), keras.Variable([0.0])
    optimizer = hvd.DistributedOptimizer(optimizers.SGD(1.0), exchange=LocalSteps(1))
    optimizer.register_local_var(own)
    optimizer.build([shared, own])
    optimizer.apply([tf.constant([hvd.rank() + 1.0])] * 2)
    np.testing.assert_allclose(shared.numpy(), [-(hvd.size() + 1) / 2])
    np.testing.assert_allclose(own.numpy(), [-(hvd.rank() + 1.0) / hvd.size()])
    assert not any(row.variable is own for row in tracked_of(optimizer))


def check_slots_of_weights_that_differ_are_each_ranks_own() -> None:
    variable = keras.Variable([0.0, 0.0])
    optimizer = hvd.DistributedOptimizer(
        optimizers.Adam(gradient_accumulation_steps=2), exchange=LocalSteps()
    )
    optimizer.build([variable])
    rows = {row.path: row for row in tracked_of(optimizer)}
    own = [row for row in rows.values() if row.same_on is None]
    slots = [*optimizer._momentums, *optimizer._velocities]
    assert {id(row.variable) for row in own} == {id(v) for v in (variable, *slots)}
    assert [row.role for row in own] == [Role.WEIGHT, Role.SLOT, Role.SLOT]
    assert sum(row.same_on is hvd.global_process_set for row in rows.values()) == 2


class Restless(AllReduce):
    """An all-reduce of gradients after which the weights are changed."""

    def weights(self, variables: Any, iteration: Any) -> None:
        for variable in variables:
            variable.assign(variable.value + 1.0)


def check_weights_of_a_subclass_of_the_default_exchange() -> None:
    optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(1.0), exchange=Restless())
    variable = keras.Variable(0.0)
    optimizer.apply([tf.constant(float(hvd.rank()))], [variable])
    assert float(variable.numpy()) == 1.0 - (hvd.size() - 1) / 2


@long
def check_local_steps_in_fit_in_graphs_and_eagerly() -> None:
    x, y = data(24, seed=hvd.rank())
    alone = hvd.callbacks.ConsistencyCheck(at_start=False, every_n_epochs=1)
    ends: list[Any] = []
    for options in ({}, {"run_eagerly": True}, {"steps_per_execution": 3}):
        model = mlp(5)
        optimizer = hvd.DistributedOptimizer(optimizers.SGD(0.1), exchange=LocalSteps(3, 0.3))
        model.compile(optimizer, "mse", **options)
        model.fit(
            x, y, batch_size=4, epochs=2, verbose=0, shuffle=False, callbacks=[alone]
        )  # an epoch ends with a meeting
        same_on_all_ranks(model)
        ends.append(model.get_weights())
    for other in ends[1:]:
        for mine, theirs in zip(ends[0], other, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)
