"""Weights for any number of ranks, and data of every kind whose rows can be dealt out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from checks.reference import BATCH

import hvdkit as hvd

UNEQUAL = [5, 3, 1, 2]
VERY_UNEQUAL = [1000, 1, 1, 1]


def weights(given: list[int] | None = None) -> list[int]:
    """One for each rank."""
    return (given or UNEQUAL)[: hvd.size()]


def global_batch() -> int:
    return BATCH * hvd.size()


def first_of(x: Any, y: Any) -> Any:
    """A function of a row that changes nothing."""
    return tf.identity(x), y


def _wide(x: np.ndarray, y: np.ndarray, width: int) -> tf.data.Dataset:
    """Batches of which not even the rows tell that they are of one shape."""
    rows = tf.data.Dataset.from_tensor_slices((x, y))
    shape = tf.TensorShape([None] * (x.ndim - 1))
    return rows.padded_batch(width, padded_shapes=(shape, []))


# Of x, y, and more arguments of hvd.shard.
KINDS: dict[str, Callable[..., Any]] = {
    "arrays": lambda x, y, **more: hvd.shard((x, y), BATCH, shuffle=False, **more),
    "samples": lambda x, y, **more: hvd.shard(
        tf.data.Dataset.from_tensor_slices((x, y)), BATCH, **more
    ),
    "batches": lambda x, y, **more: hvd.shard(
        tf.data.Dataset.from_tensor_slices((x, y)).batch(3), BATCH, **more
    ),
    "wide batches": lambda x, y, **more: hvd.shard(_wide(x, y, global_batch()), BATCH, **more),
    "mapped rows": lambda x, y, **more: hvd.shard(
        (x, y), BATCH, shuffle=False, map=first_of, **more
    ),
    "mapped batches": lambda x, y, **more: hvd.shard(
        tf.data.Dataset.from_tensor_slices((x, y)), BATCH, **more
    ).map(first_of),
}
