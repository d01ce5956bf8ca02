"""A few variables, gradients of each rank's own, and steps over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import hvdkit as hvd

SHAPES = ((3, 2), (4,))
COMPILE: tuple[Callable[[Any], Any], ...] = (lambda step: step, tf.function)


def variables(shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[keras.Variable]:
    """The same on all ranks."""
    rng = np.random.default_rng(5)
    return [
        keras.Variable(rng.normal(size=shape).astype("float32"), name=f"weight{i}")
        for i, shape in enumerate(shapes)
    ]


def gradients(step: int, rank: int | None = None) -> list[np.ndarray]:
    """Those of a rank in a step; this rank's own by default."""
    rng = np.random.default_rng([step, hvd.rank() if rank is None else rank])
    return [rng.normal(size=shape).astype("float32") for shape in SHAPES]


def run(
    optimizer: Any,
    steps: int,
    compile_step: Callable[[Any], Any] = tf.function,
    given: Callable[[int], list[np.ndarray]] = gradients,
) -> list[list[np.ndarray]]:
    """Apply gradients to `variables()`; this rank's weights after each step."""
    weights = variables()
    optimizer.build(weights)
    step = compile_step(lambda *gradients: optimizer.apply([*gradients]))
    values = []
    for number in range(steps):
        step(*map(tf.constant, given(number)))
        values.append([np.array(v) for v in weights])
    return values


def mean_over_ranks(arrays: Any) -> Any:
    """The mean of each array over ranks, in float64."""
    everyone = hvd.allgather_object(arrays)
    return [np.mean([np.float64(a) for a in each], axis=0) for each in zip(*everyone, strict=True)]


def close(one: Any, other: Any, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """Assert that lists of arrays are alike."""
    for mine, expected in zip(one, other, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=rtol, atol=atol)


def together(arrays: Any) -> bool:
    """Whether all ranks hold the same, to the bit."""
    first, *rest = hvd.allgather_object(arrays)
    return all(np.array_equal(a, b) for other in rest for a, b in zip(first, other, strict=True))
