"""What each rank gives to a collective, and what has to come out.

Each rank gives other data, so a result that is right has come from the other ranks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

import hvdkit as hvd


def all_ranks() -> range:
    return range(hvd.size())


def of_rank(rank: int, dtype: tf.DType = tf.float32, rows: int = 3) -> np.ndarray:
    """Rows of two small numbers that are exact in every type and other ones on each rank."""
    values = np.arange(1, 2 * rows + 1).reshape(rows, 2) + 3 * rank
    if dtype == tf.bool:
        return (values + rank) % (rank + 2) == 0
    if dtype.is_complex:
        return (values * (1 + 2j)).astype(dtype.as_numpy_dtype)
    return values.astype(dtype.as_numpy_dtype)


def of_all_ranks(dtype: tf.DType = tf.float32, rows: int = 3) -> np.ndarray:
    """What all ranks have, stacked, in a type that holds the sum."""
    wide = np.complex128 if dtype.is_complex else np.float64
    return np.stack([of_rank(r, dtype, rows).astype(wide) for r in all_ranks()])


def own_slice(rows: np.ndarray) -> np.ndarray:
    """This rank's slice of the first dimension; the first ranks get one row more."""
    return np.array_split(rows, hvd.size())[hvd.rank()]


def sparse_of_rank(rank: int) -> tf.IndexedSlices:
    """`rank + 1` rows of 5, the last of them twice."""
    indices = [(rank + i) % 5 for i in range(rank + 1)] + [(2 * rank) % 5]
    values = np.arange(len(indices) * 2, dtype=np.float32).reshape(-1, 2) + 1 + 10 * rank
    return tf.IndexedSlices(
        tf.constant(values), tf.constant(indices, tf.int64), tf.constant([5, 2], tf.int64)
    )


def assert_equal(actual: Any, expected: Any, **tolerance: float) -> None:
    """Assert that the numbers are the same: exactly, where no tolerance is given."""
    actual = np.asarray(actual.numpy() if tf.is_tensor(actual) else actual)
    wide = np.complex128 if actual.dtype.kind == "c" else np.float64
    if tolerance:
        np.testing.assert_allclose(actual.astype(wide), expected, **tolerance)
    else:
        np.testing.assert_array_equal(actual.astype(wide), expected)


@contextlib.contextmanager
def process_sets(*sets: list[int]) -> Iterator[list[hvd.ProcessSet]]:
    """Process sets that all ranks have, until the end of the block."""
    added = [hvd.add_process_set(ranks) for ranks in sets]
    yield added
    hvd.barrier()
    for process_set in added:
        assert hvd.remove_process_set(process_set)
