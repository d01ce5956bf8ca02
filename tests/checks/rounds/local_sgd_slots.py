"""What becomes of slots when ranks meet."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.marks import long
from checks.rounds.steps import close, gradients, mean_over_ranks, run, together, variables
from keras import optimizers

import hvdkit as hvd
from hvdkit.exchange import LocalSGD, Role
from hvdkit.optimizers.composition import tracked_of


def _slots(optimizer: Any) -> list[np.ndarray]:
    return [np.array(v) for v in (*optimizer._momentums, *optimizer._velocities)]


@long
def check_slots_stay_or_are_averaged() -> None:
    plain = optimizers.Adam(0.1)
    plain.build(variables())
    for step in range(2):
        plain.apply([tf.constant(g) for g in gradients(step)])
    alone = _slots(plain)
    for slots, expected in (("own", alone), ("average", mean_over_ranks(alone))):
        exchange = LocalSGD(2, slots=slots)
        optimizer = hvd.DistributedOptimizer(optimizers.Adam(0.1), exchange=exchange)
        values = run(optimizer, 2)
        close(_slots(optimizer), expected)
        assert together(values[-1])


def check_slots_are_each_ranks_own_rows() -> None:
    for wrap_built in (False, True):
        weights = variables()
        optimizer = optimizers.Adam(gradient_accumulation_steps=2, use_ema=True)
        if wrap_built:
            optimizer.build(weights)
        hvd.DistributedOptimizer(optimizer, exchange=LocalSGD(2))
        optimizer.build(weights)
        own = [row for row in tracked_of(optimizer) if row.same_on is None]
        kinds = sorted(row.role.name for row in own)
        assert kinds == ["SLOT"] * 6 + ["WEIGHT"] * 2, kinds
        assert all(row.resumes_from_mean == (row.role is Role.SLOT) for row in own)
        assert not {id(v) for v in optimizer._accumulated_gradients} & {
            id(row.variable) for row in own
        }


def check_factored_slots_are_found() -> None:
    weights = [keras.Variable(np.ones((4, 3), "float32")), keras.Variable(np.ones(3, "float32"))]
    optimizer = hvd.DistributedOptimizer(optimizers.Adafactor(), exchange=LocalSGD(2))
    optimizer.build(weights)
    own = {id(row.variable) for row in tracked_of(optimizer) if row.role is Role.SLOT}
    assert {id(optimizer._r[0]), id(optimizer._c[0]), id(optimizer._v[1])} <= own


@long
def check_averages_of_weights_are_the_average_of_means() -> None:
    """The mean over ranks of the averages is, at each step, the average of the means."""
    for overwrite in (None, 3):
        optimizer = hvd.DistributedOptimizer(
            optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=overwrite),
            exchange=LocalSGD(2),
        )
        weights = variables()
        optimizer.build(weights)
        averages = optimizer._model_variables_moving_average
        expected = mean_over_ranks([np.array(a) for a in averages])
        step = tf.function(lambda *g, o=optimizer: o.apply([*g]))
        for number in range(6):
            before = mean_over_ranks([v.numpy() for v in weights])
            given = mean_over_ranks(gradients(number))
            step(*map(tf.constant, gradients(number)))
            moved = [w - 0.1 * g for w, g in zip(before, given, strict=True)]
            share = 0.5 if number else 1.0  # Keras starts the average with the first weights
            expected = [a + share * (m - a) for a, m in zip(expected, moved, strict=True)]
            close(mean_over_ranks([np.array(a) for a in averages]), expected)
            assert together([np.array(a) for a in averages]) == (
                bool(number % 2) or hvd.size() == 1
            )
        optimizer.finalize_variable_values(weights)
        assert together([v.numpy() for v in weights])


def check_schedule_free_slots_meet_with_the_weights() -> None:
    if not hasattr(optimizers, "ScheduleFreeAdamW"):
        return
    optimizer = hvd.DistributedOptimizer(
        optimizers.ScheduleFreeAdamW(0.1), exchange=LocalSGD(2, slots="average")
    )
    values = run(optimizer, 4)
    assert together(values[-1])
    assert together([np.array(v) for v in optimizer._momentums])
