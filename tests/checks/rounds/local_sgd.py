"""Local steps and meetings, against what they are by definition."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.marks import long
from checks.rounds.steps import (
    COMPILE,
    close,
    gradients,
    mean_over_ranks,
    run,
    together,
    variables,
)
from keras import optimizers

import hvdkit as hvd
from hvdkit.exchange import AllReduce, LocalSGD


def _distributed(optimizer: Any, exchange: Any, **options: Any) -> Any:
    return hvd.DistributedOptimizer(optimizer, exchange=exchange, **options)


@long
def check_a_meeting_at_each_step_of_sgd_is_an_allreduce() -> None:
    for compile_step in COMPILE:
        local = run(_distributed(optimizers.SGD(0.3), LocalSGD(1)), 5, compile_step)
        reduced = run(_distributed(optimizers.SGD(0.3), AllReduce()), 5, compile_step)
        for mine, expected in zip(local, reduced, strict=True):
            close(mine, expected, rtol=1e-6, atol=3e-7)
            assert together(mine)


def check_it_is_so_to_the_bit_where_floats_do_not_round() -> None:
    if hvd.size() not in (1, 2, 4):
        return  # a third rounds

    def halves(step: int) -> list[np.ndarray]:
        return [np.round(4 * g) / 8 for g in gradients(step)]

    ends = []
    for exchange in (LocalSGD(1), AllReduce()):
        weights = [keras.Variable(np.round(8 * v.numpy()) / 8) for v in variables()]
        optimizer = _distributed(optimizers.SGD(0.5), exchange)
        optimizer.build(weights)
        for step in range(6):
            optimizer.apply([tf.constant(g, tf.float32) for g in halves(step)])
        ends.append([v.numpy() for v in weights])
    for mine, expected in zip(*ends, strict=True):
        np.testing.assert_array_equal(mine, expected)


@long
def check_ranks_step_alone_and_meet_after_every_third_update() -> None:
    for compile_step in COMPILE:
        values = run(_distributed(optimizers.SGD(0.5, momentum=0.9), LocalSGD(3)), 7, compile_step)
        own = [v.numpy().astype(float) for v in variables()]
        momentum = [np.zeros(v.shape) for v in own]
        for step, found in enumerate(values):
            momentum = [0.9 * m - 0.5 * g for m, g in zip(momentum, gradients(step), strict=True)]
            own = [v + m for v, m in zip(own, momentum, strict=True)]
            if (step + 1) % 3 == 0:
                own = mean_over_ranks(own)
            close(found, own, rtol=1e-4, atol=1e-5)
            assert together(found) == ((step + 1) % 3 == 0 or hvd.size() == 1)


def check_meet_starts_a_new_round_and_does_nothing_twice() -> None:
    weights = variables()
    exchange = LocalSGD(3)
    optimizer = _distributed(optimizers.SGD(0.5), exchange)
    optimizer.build(weights)
    meetings = []
    for step in range(8):
        optimizer.apply([tf.constant(g) for g in gradients(step)])
        if step == 3:
            exchange.meet(weights)
            before = [v.numpy() for v in weights]
            exchange.meet(weights)
            close([v.numpy() for v in weights], before, 0, 0)
        if together([v.numpy() for v in weights]):
            meetings.append(step)
    assert meetings == ([2, 3, 6] if hvd.size() > 1 else [*range(8)]), meetings


@long
def check_post_local_sgd_begins_with_an_allreduce() -> None:
    """To the bit, with any optimizer; then the ranks go apart, with slots that were alike."""
    for compile_step in COMPILE:
        values = run(_distributed(optimizers.Adam(0.1), LocalSGD(2, start=3)), 7, compile_step)
        reduced = run(_distributed(optimizers.Adam(0.1), AllReduce()), 3, compile_step)
        for mine, expected in zip(values[:3], reduced, strict=True):
            close(mine, expected, 0, 0)
        met = [together(value) for value in values]
        if hvd.size() > 1:
            assert met == [True] * 3 + [False, True, False, True], met


def check_federated_averaging_weighs_by_rows() -> None:
    """Rank r sees 1 + r rows in the first step, and 5 in the others."""
    size, rank = hvd.size(), hvd.rank()
    for compile_step in COMPILE:
        weight = keras.Variable([0.0])
        exchange = LocalSGD(2, weights="rows")
        optimizer = _distributed(optimizers.SGD(1.0), exchange)
        optimizer.build([weight])

        def step(gradient: Any, rows: Any, o: Any = optimizer, e: Any = exchange) -> None:
            e.count_rows(rows, o._trainable_variables)
            o.apply([gradient])

        step = compile_step(step)
        for number in range(4):
            rows = 1 + rank if number == 0 else 5
            step(tf.constant([rank + 1.0]), tf.constant(rows))
        seen = np.array([6.0 + r for r in range(size)])
        moved = -2 * (1.0 + np.arange(size))
        expected = (seen * moved).sum() / seen.sum() + moved.mean()
        close([weight.numpy()], [[expected]])


def check_nobody_who_counts_rows_counts_all_alike() -> None:
    values = [
        run(_distributed(optimizers.SGD(0.5), LocalSGD(2, weights=weights)), 4)[-1]
        for weights in ("rows", "equal")
    ]
    close(*values, rtol=1e-6)


def check_accumulation_clipping_and_decay_are_of_the_rank() -> None:
    def make() -> Any:
        return optimizers.SGD(
            0.5, gradient_accumulation_steps=2, global_clipnorm=0.3, weight_decay=0.1
        )

    values = run(_distributed(make(), LocalSGD(2)), 8)
    weights = variables()
    plain = make()
    plain.build(weights)
    for step, found in enumerate(values):
        plain.apply([tf.constant(g) for g in gradients(step)])
        if (step + 1) % 4 == 0:
            for v, mean in zip(weights, mean_over_ranks([v.numpy() for v in weights]), strict=True):
                v.assign(mean)
        close(found, [v.numpy() for v in weights])


def check_a_schedule_and_a_constraint() -> None:
    schedule = optimizers.schedules.PiecewiseConstantDecay([1, 3], [0.5, 0.25, 0.125])
    weight = keras.Variable([3.0, 4.0])
    weight.constraint = keras.constraints.UnitNorm(axis=0)
    exchange = LocalSGD(2)
    optimizer = _distributed(optimizers.SGD(schedule), exchange)
    optimizer.build([weight])
    own = np.array([3.0, 4.0])
    for step in range(5):
        gradient = gradients(step)[1][:2]
        optimizer.apply([tf.constant(gradient)])
        own = own - [0.5, 0.5, 0.25, 0.25, 0.125][step] * gradient
        if step % 2:
            (own,) = mean_over_ranks([own])
        own = own / np.linalg.norm(own)
        close([weight.numpy()], [own])
    exchange.meet([weight])
    (own,) = mean_over_ranks([own])
    close([weight.numpy()], [own / np.linalg.norm(own)])


@long
def check_sparse_gradients_stay_on_their_rank() -> None:
    rank, size = hvd.rank(), hvd.size()
    for start, compile_step in ((0, COMPILE[0]), (0, COMPILE[1]), (2, COMPILE[1])):
        table = keras.Variable(np.zeros((8, 2), "float32"))
        optimizer = _distributed(optimizers.SGD(1.0), LocalSGD(2, start=start))
        optimizer.build([table])

        @compile_step
        def step(values: Any, indices: Any, o: Any = optimizer) -> None:
            o.apply([tf.IndexedSlices(values, indices, tf.constant([8, 2]))])

        expected = np.zeros((8, 2))
        for number in range(4):
            count = 1 + rank  # other numbers of rows on each rank
            step(tf.ones([count, 2]), tf.range(count))
            of_all = np.array(
                [[1.0 if row < 1 + r else 0.0 for row in range(8)] for r in range(size)]
            )
            expected -= of_all.mean(axis=0)[:, None]
            if number % 2 or number < start:
                close([table.numpy()], [expected])
            else:
                assert size == 1 or not together([table.numpy()])


def check_what_is_not_finite_on_one_rank_is_left_out_on_all() -> None:
    weight = keras.Variable([0.0])
    optimizer = _distributed(optimizers.SGD(1.0), LocalSGD(2), nonfinite=hvd.nonfinite.Skip())
    optimizer.build([weight])
    apply = tf.function(lambda gradient: optimizer.apply([gradient]))
    apply(tf.constant([hvd.rank() + 1.0]))
    apply(tf.constant([np.nan if hvd.rank() == 0 else 1.0], tf.float32))
    np.testing.assert_allclose(weight.numpy(), [-(hvd.rank() + 1.0)])
    assert int(optimizer.iterations) == 1
    apply(tf.constant([hvd.rank() + 1.0]))
    np.testing.assert_allclose(weight.numpy(), [-(hvd.size() + 1.0)])


def check_loss_scaling_leaves_out_on_all() -> None:
    weight = keras.Variable([0.0])
    optimizer = _distributed(
        optimizers.LossScaleOptimizer(optimizers.SGD(1.0), initial_scale=4.0), LocalSGD(2)
    )
    optimizer.build([weight])
    optimizer.apply([tf.constant([np.inf if hvd.rank() == 0 else 4.0], tf.float32)])
    np.testing.assert_allclose(weight.numpy(), [0.0])
    for _ in range(2):
        optimizer.apply([tf.constant([2.0 * (hvd.rank() + 1)])])
    np.testing.assert_allclose(weight.numpy(), [-(hvd.size() + 1.0)])
