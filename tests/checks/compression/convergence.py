"""Least squares over ranks with rows of their own: who comes to the optimum of all rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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


# The methods that send less are later, and the rate of steps falls to 0.
REACH = {"one bit": 1e-2, "bfloat16": 2e-2}
WITHOUT: dict[str, Callable[[], Any]] = {
    "one bit": lambda: AllReduce(compression=OneBit()),
    "power": lambda: AllReduce(LowRank(rank=2, min_compression=0.5)),
    "top": lambda: AllReduce(Largest(ratio=0.2)),
}


def _require_reached(names: Iterable[str]) -> None:
    for name in names:
        reached = distance(AllReduce(METHODS[name]()), rate=0.05 if name == "momentum" else 0.15)
        assert reached < REACH.get(name, 5e-3), (name, reached)


def check_error_feedback_comes_to_the_optimum() -> None:
    assert distance(AllReduce()) < 1e-3
    _require_reached(["power"])


@long
def check_each_method_comes_to_the_optimum() -> None:
    _require_reached(METHODS)


def check_without_feedback_a_coarse_method_does_not() -> None:
    """So the check before would notice."""
    assert distance(WITHOUT["power"]()) > 0.02


@long
def check_without_feedback_no_coarse_method_does() -> None:
    for name, make in WITHOUT.items():
        reached = distance(make())
        assert reached > 0.02, (name, reached)
    assert distance(AllReduce(Int8())) < 1e-2  # unbiased
    assert distance(AllReduce(compression=Cast("bfloat16"))) < 5e-2
