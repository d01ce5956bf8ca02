"""Rows of dense, ragged and sparse tensors, and of batches of them."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def row_count(value: Any) -> tf.Tensor:
    """How many rows a tensor or an array has, an int64 scalar."""
    if isinstance(value, tf.RaggedTensor):
        return tf.cast(value.nrows(), tf.int64)
    if isinstance(value, tf.SparseTensor):
        return value.dense_shape[0]
    return tf.shape(value, out_type=tf.int64)[0]


def batch_rows(batch: Any) -> tf.Tensor:
    """How many rows a batch has: those of its first value, an int64 scalar."""
    return row_count(next(value for value in tf.nest.flatten(batch) if value is not None))


def take_rows(batch: Any, rows: tf.Tensor) -> Any:
    """The rows of a batch with these numbers, each at most once."""

    def taken(value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, tf.SparseTensor):
            return _sparse_rows(value, rows)
        return tf.gather(value, rows)

    return tf.nest.map_structure(taken, batch)


def _sparse_rows(value: tf.SparseTensor, rows: tf.Tensor) -> tf.SparseTensor:
    rows = tf.cast(rows, tf.int64)
    count = tf.size(rows, out_type=tf.int64)
    # Where each row of `value` comes to stand; -1 for those that are left out.
    places = tf.scatter_nd(rows[:, None], tf.range(1, count + 1), value.dense_shape[:1]) - 1
    row_of_number = tf.gather(places, value.indices[:, 0])
    kept = row_of_number >= 0
    indices = tf.concat([row_of_number[:, None], value.indices[:, 1:]], axis=1)
    picked = tf.SparseTensor(
        tf.boolean_mask(indices, kept),
        tf.boolean_mask(value.values, kept),
        tf.concat([[count], value.dense_shape[1:]], axis=0),
    )
    picked = tf.sparse.reorder(picked)
    picked.set_shape([None, *value.shape[1:]])
    return picked
