"""A rank's rows of each global batch of a stream, which all ranks read."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from hvdkit.data.batch import ShardedBatch
from hvdkit.data.python_stream import from_python
from hvdkit.data.rows import batch_rows, take_rows
from hvdkit.data.source import Sharding


def own_rows(
    batches: tf.data.Dataset,
    sharding: Sharding,
    rows: int,
    *,
    in_order: bool,
    tag: bool,
    first: int,
) -> tf.data.Dataset:
    """A rank's rows of each global batch.

    Args:
        batches: the global batches, of which the last may be shorter.
        sharding: which rank of how many.
        rows: of a full global batch.
        in_order: the pass is one that reads in order.
        tag: whether to give `ShardedBatch`es.
        first: the place in the data at which the batches begin.
    """
    rank, size = sharding.rank, sharding.size

    def keep(step: tf.Tensor, own: tf.Tensor, batch: Any) -> Any:
        there = batch_rows(batch)
        enough = tf.debugging.Assert(
            tf.logical_or(step > 0 if first == 0 else True, there >= size),
            [f"the data has fewer rows than the {size} ranks: start fewer ranks, or give more."],
        )
        with tf.control_dependencies([enough] if enough is not None else []):
            picked = tf.cond(tf.size(own) > 0, lambda: own, lambda: tf.zeros([1], tf.int64))
        data = take_rows(batch, picked)
        if not tag:
            return data
        scale = tf.cast(size * tf.size(own, out_type=tf.int64), tf.float32)
        return ShardedBatch(data, scale / tf.cast(there, tf.float32))

    def keep_every(step: tf.Tensor, batch: Any) -> Any:
        own = tf.range(rank, tf.maximum(batch_rows(batch), rank), size, dtype=tf.int64)
        return keep(step, own, batch)

    def dealt() -> Iterator[np.ndarray]:
        deals = sharding.deals(rows, in_order=in_order)
        return (deals(step).own(rank, rows) for step in itertools.count())

    def keep_dealt(step: tf.Tensor, numbers_and_batch: tuple[tf.Tensor, Any]) -> Any:
        numbers, batch = numbers_and_batch
        there = batch_rows(batch)
        known = tf.debugging.Assert(
            there <= rows, ["a batch has more rows than the dataset says:", there, rows]
        )
        with tf.control_dependencies([known] if known is not None else []):
            own = tf.boolean_mask(numbers, numbers < there)
        return keep(step, own, batch)

    if not sharding.unequal:
        return batches.enumerate().map(keep_every)
    numbers = from_python(dealt, tf.TensorSpec([None], tf.int64))
    numbers = numbers.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    return tf.data.Dataset.zip((numbers, batches)).enumerate().map(keep_dealt)
