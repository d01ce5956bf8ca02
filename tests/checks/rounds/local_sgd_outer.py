"""DiLoCo: an outer optimizer moves the weights that a round starts from."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.marks import long
from checks.rounds.steps import COMPILE, close, gradients, mean_over_ranks, run, variables
from keras import optimizers

import hvdkit as hvd
from hvdkit.exchange import LocalSGD
from hvdkit.optimizers.composition import tracked_of


def _nesterov() -> Any:
    return optimizers.SGD(0.7, momentum=0.9, nesterov=True)


@long
def check_an_outer_nesterov_step() -> None:
    """Written out as in the paper: v = 0.9 v + (anchor - mean), anchor -= 0.7 (0.9 v + ...)."""
    for compile_step in COMPILE:
        exchange = LocalSGD(2, outer=_nesterov())
        optimizer = hvd.DistributedOptimizer(optimizers.AdamW(0.1), exchange=exchange)
        values = run(optimizer, 6, compile_step)
        weights = variables()
        inner = optimizers.AdamW(0.1)
        inner.build(weights)
        anchors = [v.numpy().astype(float) for v in weights]
        velocities = [np.zeros(a.shape) for a in anchors]
        for step, found in enumerate(values):
            inner.apply([tf.constant(g) for g in gradients(step)])
            if step % 2:
                means = mean_over_ranks([v.numpy() for v in weights])
                moves = [a - mean for a, mean in zip(anchors, means, strict=True)]
                velocities = [0.9 * v + d for v, d in zip(velocities, moves, strict=True)]
                anchors = [
                    a - 0.7 * (0.9 * v + d)
                    for a, v, d in zip(anchors, velocities, moves, strict=True)
                ]
                for v, anchor in zip(weights, anchors, strict=True):
                    v.assign(anchor)
            close(found, [v.numpy() for v in weights], rtol=2e-4, atol=2e-5)


@long
def check_an_outer_sgd_of_rate_one_is_the_mean() -> None:
    ends = [
        run(
            hvd.DistributedOptimizer(
                optimizers.Adam(0.1), exchange=LocalSGD(3, start=1, outer=outer)
            ),
            7,
        )[-1]
        for outer in (None, optimizers.SGD(1.0))
    ]
    close(*ends)


@long
def check_a_round_starts_from_the_weights_that_there_are() -> None:
    """Those that a user has set between two rounds, and not those of the last meeting."""
    weight = keras.Variable([0.0])
    exchange = LocalSGD(1, outer=optimizers.SGD(0.5))
    optimizer = hvd.DistributedOptimizer(optimizers.SGD(1.0), exchange=exchange)
    optimizer.build([weight])
    step = tf.function(lambda gradient: optimizer.apply([gradient]))
    gradient = tf.constant([hvd.rank() + 1.0])
    mean = (hvd.size() + 1) / 2
    step(gradient)
    close([weight.numpy()], [[-mean / 2]])
    weight.assign([10.0])
    step(gradient)
    close([weight.numpy()], [[10.0 - mean / 2]])


@long
def check_what_is_kept_is_the_same_on_all_ranks() -> None:
    exchange = LocalSGD(2, outer=_nesterov())
    optimizer = hvd.DistributedOptimizer(optimizers.SGD(0.1, momentum=0.9), exchange=exchange)
    run(optimizer, 5)
    shared = [row for row in tracked_of(optimizer) if row.same_on is not None]
    names = [row.path for row in shared]
    assert sum("anchor" in name for name in names) == 2, names
    assert sum("momentum" in name for name in names) == 2, names
    everyone = hvd.allgather_object([np.array(row.variable) for row in shared])
    for one in everyone[1:]:
        close(one, everyone[0], 0, 0)


@long
def check_several_optimizers_share_an_exchange() -> None:
    kernels, biases = optimizers.Adam(0.1), optimizers.SGD(0.1)
    several = optimizers.MultiOptimizer(lambda v: kernels if len(v.shape) > 1 else biases)
    optimizer = hvd.DistributedOptimizer(several, exchange=LocalSGD(2, outer=optimizers.SGD(1.0)))
    values = run(optimizer, 4)
    apart = run(hvd.DistributedOptimizer(optimizers.Adam(0.1), exchange=LocalSGD(2)), 4)
    close(values[-1][:1], apart[-1][:1])
    alone = run(hvd.DistributedOptimizer(optimizers.SGD(0.1), exchange=LocalSGD(2)), 4)
    close(values[-1][1:], alone[-1][1:])
