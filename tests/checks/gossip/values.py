"""Weights that differ between ranks, and what rounds of gossip without gradients make of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import optimizers

import hvdkit as hvd
from hvdkit.schedules.gossip import Graph, mixing_matrix

SHAPES = ((3, 2), (4,), (2,))
DTYPES = ("float32", "float32", "float64")


def start(rank: int) -> list[np.ndarray]:
    rng = np.random.default_rng(rank)
    return [rng.normal(size=shape) for shape in SHAPES]


def run(
    exchange: Any, rounds: int, compile_step: Callable[[Any], Any] = tf.function
) -> list[np.ndarray]:
    """Rounds of gossip; what all ranks hold after each: [ranks, numbers]."""
    weights = [
        keras.Variable(v, dtype=dtype) for v, dtype in zip(start(hvd.rank()), DTYPES, strict=True)
    ]
    optimizer = hvd.DistributedOptimizer(optimizers.SGD(1.0), exchange=exchange)
    optimizer.build(weights)
    step = compile_step(lambda: optimizer.apply([tf.zeros_like(v.value) for v in weights]))
    seen = []
    for _ in range(rounds):
        step()
        own = np.concatenate([np.float64(v.numpy()).ravel() for v in weights])
        seen.append(np.array(hvd.allgather_object(own)))
    return seen


def expected(graph: Graph, rounds: int) -> list[np.ndarray]:
    """The same by the matrices of the graph."""
    size = hvd.size()
    held = np.array([np.concatenate([v.ravel() for v in start(rank)]) for rank in range(size)])
    values = []
    for number in range(rounds):
        held = mixing_matrix(graph, size, number % graph.period(size)) @ held
        values.append(held)
    return values
