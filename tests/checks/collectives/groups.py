"""Several values of mixed types in one call."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from checks.collectives.reference import (
    all_ranks,
    assert_equal,
    of_all_ranks,
    of_rank,
    own_slice,
    sparse_of_rank,
)

import hvdkit as hvd


def check_grouped_allreduce_of_mixed_types() -> None:
    rank, ranks = hvd.rank(), list(all_ranks())
    dtypes = (tf.float32, tf.int64, tf.bfloat16, tf.float32, tf.uint8, tf.float16, tf.bool)
    values = [tf.constant(of_rank(rank, dtype, rows=i + 1)) for i, dtype in enumerate(dtypes)]
    mixed = [
        *values,
        of_rank(rank, tf.int32),
        rank,
        rank + 0.5,
        sparse_of_rank(rank),
        keras.Variable([1.0 + rank]),
    ]
    results = hvd.grouped_allreduce(mixed, op=hvd.Sum)
    assert len(results) == len(mixed)
    for i, dtype in enumerate(dtypes):
        assert results[i].dtype == dtype
        expected = of_all_ranks(dtype, rows=i + 1).sum(0)
        assert_equal(results[i], expected > 0 if dtype == tf.bool else expected)
    array, whole, real, slices, variable = results[len(dtypes) :]
    assert_equal(array, of_all_ranks(tf.int32).sum(0))
    assert (whole, real) == (sum(ranks), sum(ranks) + len(ranks) / 2)
    assert_equal(
        tf.convert_to_tensor(slices),
        np.sum([tf.convert_to_tensor(sparse_of_rank(r)).numpy() for r in ranks], 0),
    )
    assert_equal(variable, [sum(1.0 + r for r in ranks)])
    assert hvd.grouped_allreduce([]) == []


def check_grouped_allgather_of_mixed_types() -> None:
    rank = hvd.rank()
    dtypes = (tf.float32, tf.int64, tf.bfloat16, tf.float32, tf.uint64, tf.bool)
    values = [tf.constant(of_rank(rank, dtype, rows=rank + i)) for i, dtype in enumerate(dtypes)]
    results = hvd.grouped_allgather([*values, rank, of_rank(rank, rows=2)])
    for i, dtype in enumerate(dtypes):
        assert results[i].dtype == dtype
        expected = [np.asarray(of_rank(r, dtype, rows=r + i), np.float64) for r in all_ranks()]
        assert_equal(results[i], np.concatenate(expected))
    assert results[-2].tolist() == list(all_ranks())
    assert type(results[-1]) is np.ndarray
    assert_equal(results[-1], np.concatenate(of_all_ranks(rows=2)))
    assert hvd.grouped_allgather([]) == []


def check_grouped_reducescatter_of_mixed_types() -> None:
    rank = hvd.rank()
    dtypes = (tf.float32, tf.int64, tf.bfloat16, tf.uint8)
    values = [tf.constant(of_rank(rank, dtype, rows=i + 2)) for i, dtype in enumerate(dtypes)]
    results = hvd.grouped_reducescatter([*values, of_rank(rank)], op=hvd.Sum)
    for i, dtype in enumerate(dtypes):
        assert results[i].dtype == dtype
        assert_equal(results[i], own_slice(of_all_ranks(dtype, rows=i + 2).sum(0)))
    assert type(results[-1]) is np.ndarray
    assert_equal(results[-1], own_slice(of_all_ranks().sum(0)))
    assert hvd.grouped_reducescatter([]) == []
