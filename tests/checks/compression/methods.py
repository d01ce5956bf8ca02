"""The methods, and small variables for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import hvdkit as hvd
from hvdkit.exchange import AllReduce, Cast, ErrorFeedback, Int8, OneBit, PowerSGD, TopK
from hvdkit.optimizers.composition import tracked_of

SHAPES = ((6, 5), (3, 3, 2, 4), ())

METHODS: dict[str, Callable[[], Any]] = {
    "one bit": lambda: ErrorFeedback(OneBit()),
    "nearest": lambda: ErrorFeedback(Int8(block=7, rounding="nearest")),
    "stochastic": lambda: ErrorFeedback(Int8(block=7)),
    "float16": lambda: ErrorFeedback(Cast("float16")),
    "bfloat16": lambda: ErrorFeedback(Cast("bfloat16")),
    "power": lambda: PowerSGD(rank=2, min_compression=0.5),
    "late power": lambda: PowerSGD(rank=1, start_step=2, min_compression=0.5),
    "top": lambda: TopK(ratio=0.2),
    "warm top": lambda: TopK(ratio=0.02, warmup_steps=4),
    "momentum": lambda: TopK(ratio=0.2, momentum=0.9),
}


def variables_of(shapes: Iterable[tuple[int, ...]] = SHAPES, dtype: str = "float32") -> list[Any]:
    return [keras.Variable(tf.zeros(shape, dtype), dtype=dtype) for shape in shapes]


def gradients_of(
    step: int, rank: int, shapes: Iterable[tuple[int, ...]] = SHAPES
) -> list[np.ndarray]:
    """Gradients of one rank, which share something with those of the other steps and ranks."""
    own, common = np.random.default_rng([step, rank]), np.random.default_rng(1)
    return [np.asarray(own.normal(size=s) + common.normal(size=s), "float32") for s in shapes]


def optimizer_with(aggregator: Any, variables: list[Any], **options: Any) -> Any:
    """SGD whose steps are the exchanged gradients, over some variables."""
    optimizer = hvd.DistributedOptimizer(
        keras.optimizers.SGD(1.0), exchange=AllReduce(aggregator), **options
    )
    optimizer.build(variables)
    return optimizer


def kept(optimizer: Any, kind: str = "") -> list[np.ndarray]:
    """What an optimizer's exchange keeps: all, or what has a path that begins with `kind`."""
    rows = [row for row in tracked_of(optimizer) if row.path.startswith(kind)]
    return [np.array(row.variable) for row in rows]


def mean_over_ranks(arrays: list[np.ndarray]) -> list[np.ndarray]:
    everyone = hvd.allgather_object([np.asarray(array, "float64") for array in arrays])
    return [np.mean(of_ranks, axis=0) for of_ranks in zip(*everyone, strict=True)]
