"""Least squares over ranks with rows of their own: who comes to the optimum of all rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from checks.compression.methods import METHODS, variables_of
from checks.marks import long
from keras import optimizers

import hvdkit as hvd
from hvdkit.exchange import AllReduce, Cast, Int8, OneBit
from hvdkit.exchange.compression.largest import Largest
from hvdkit.exchange.compression.low_rank import LowRank

ROWS, INPUTS, OUTPUTS = 40, 8, 6


def _rows(rank: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(rank)
    x = rng.normal(size=(ROWS, INPUTS))
    truth = np.random.default_rng(9).normal(size=(INPUTS, OUTPUTS))
    # Each rank has an optimum of its own, far from the others'.
    own = rng.normal(size=(INPUTS, OUTPUTS))
    return x, x @ (truth + own)


def _optimum() -> np.ndarray:
    xs, ys = zip(*map(_rows, range(hvd.size())), strict=True)
    return np.linalg.lstsq(np.concatenate(xs), np.concatenate(ys), rcond=None)[0]


def distance(exchange: Any, steps: int = 250, rate: float = 0.15, **options: Any) -> float:
    """How far from the optimum of all rows the ranks come, over how far they were."""
    x, y = (tf.constant(array, tf.float32) for array in _rows(hvd.rank()))
    (weights,) = variables_of([(INPUTS, OUTPUTS)])
    schedule = optimizers.schedules.CosineDecay(rate, steps)
    optimizer = hvd.DistributedOptimizer(optimizers.SGD(schedule, **options), exchange=exchange)
    optimizer.build([weights])

    @tf.function
    def train() -> None:
        for _ in tf.range(steps):
            error = tf.matmul(x, weights.value) - y
            optimizer.apply([tf.matmul(x, error, transpose_a=True) / ROWS])

    train()
    found = weights.numpy()
    for other in hvd.allgather_object(found):
        np.testing.assert_array_equal(found, other)
    optimum = _optimum()
    return float(np.linalg.norm(found - optimum) / np.linalg.norm(optimum))


REACH = {"float16": 2e-3, "bfloat16": 2e-2, "one bit": 1e-2, "momentum": 2e-3}


def _require_reached(names: tuple[str, ...]) -> None:
    for name in names:
        reached = distance(AllReduce(METHODS[name]()), rate=0.1 if name == "momentum" else 0.15)
        assert reached < REACH.get(name, 2e-3), (name, reached)


def check_error_feedback_comes_to_the_optimum() -> None:
    assert distance(AllReduce()) < 1e-3
    _require_reached(("one bit", "power", "top"))


@long
def check_each_method_comes_to_the_optimum() -> None:
    _require_reached(tuple(METHODS))


def check_without_feedback_coarse_methods_do_not() -> None:
    """So the check before would notice."""
    for exchange in (
        AllReduce(compression=OneBit()),
        AllReduce(LowRank(rank=1, min_compression=0.5)),
        AllReduce(Largest(ratio=0.05)),
    ):
        assert distance(exchange) > 0.02
    assert distance(AllReduce(Int8())) < 1e-2
    assert distance(AllReduce(compression=Cast("bfloat16"))) < 5e-2
