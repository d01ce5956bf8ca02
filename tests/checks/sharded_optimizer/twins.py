"""A sharded optimizer beside a plain one that gets the mean of all ranks' gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import hvdkit as hvd

# In one bucket, whose elements divide by no number of ranks: scalars, vectors, matrices.
SHAPES = ((5, 3), (), (3,), (7, 2))


def variables(shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[keras.Variable]:
    rng = np.random.default_rng(5)
    values = [rng.normal(size=shape) for shape in shapes]
    return [
        keras.Variable(value, dtype="float32", name=f"weight_{i}") for i, value in enumerate(values)
    ]


def drawn(step: int, shapes: Sequence[tuple[int, ...]]) -> list[list[np.ndarray]]:
    """The gradients of each rank."""
    rngs = [np.random.default_rng([step, rank]) for rank in range(hvd.size())]
    return [[np.asarray(rng.normal(size=s), "float32") for s in shapes] for rng in rngs]


def as_tensors(gradients: Sequence[np.ndarray]) -> list[tf.Tensor]:
    return [tf.constant(gradient) for gradient in gradients]


def require_equal_to_plain(
    make: Callable[[], Any],
    exchange: Any,
    *,
    what: str = "",
    steps: int = 3,
    compile_step: Callable[[Any], Any] = lambda step: step,
    shapes: Sequence[tuple[int, ...]] = SHAPES,
    prepare: Callable[[list[keras.Variable]], None] = lambda variables: None,
    **options: Any,
) -> Any:
    """Step both, and compare the weights after each step; returns the sharded optimizer."""
    plain, mine = variables(shapes), variables(shapes)
    prepare(plain)
    prepare(mine)
    reference = make()
    optimizer = hvd.DistributedOptimizer(make(), exchange=exchange, **options)
    reference.build(plain)
    optimizer.build(mine)
    step = compile_step(lambda *gradients: optimizer.apply([*gradients]))
    for number in range(steps):
        of_ranks = drawn(number, shapes)
        step(*as_tensors(of_ranks[hvd.rank()]))
        means = [np.mean(each, axis=0) for each in zip(*of_ranks, strict=True)]
        reference.apply(as_tensors(means))
        for one, expected in zip(mine, plain, strict=True):
            np.testing.assert_allclose(
                one.numpy(),
                expected.numpy(),
                rtol=2e-4,
                atol=2e-5,
                err_msg=f"{what}, {one.path} after step {number}",
            )
    return optimizer
