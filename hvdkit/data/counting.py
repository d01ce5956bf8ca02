"""Batches whose rows are counted over the ranks, just before a step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from hvdkit.data.batch import CountedBatch, ShardedBatch, batch_scale_of
from hvdkit.engine import ProcessSet, Sum, ops, topology


def as_sharded_batches(batches: Iterator[Any], process_set: ProcessSet) -> Iterator[Any]:
    """Each `CountedBatch` as a `ShardedBatch`, and other batches as they are.

    Args:
        batches: what this rank reads; the others read as many.
        process_set: the ranks that share a global batch.
    """
    for batch in batches:
        if isinstance(batch, CountedBatch):
            rows = int(batch.rows)
            total = ops.allreduce(
                tf.constant(rows, tf.int64),
                op=Sum,
                name="hvdkit.data.rows",
                process_set=process_set,
            )
            scale = batch_scale_of(rows, int(total), topology.process_set_size(process_set))
            yield ShardedBatch(batch.data, tf.constant(scale, tf.float32))
        else:
            yield batch
