"""One rank's shard of a global batch."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from hvdkit.data.rows import batch_rows
from hvdkit.data.shares import Deal


class ShardedBatch(NamedTuple):
    """What the pipeline hands to the training step when data does not divide by the ranks.

    Attributes:
        data: the rank's rows, as `fit` takes them: x, (x, y) or (x, y, sample_weight).
        scale: float32 scalar, N R_r / R for R_r of R rows over N ranks: what the rank's loss,
            averaged over its own rows, counts. 0 marks a padding row on a rank that has none.
    """

    data: Any
    scale: Any


class CountedBatch(NamedTuple):
    """What the pipeline hands on where a rank does not know how many rows the others have.

    Attributes:
        data: as of a `ShardedBatch`.
        rows: int64 scalar, how many rows count: all, or 0 for a padding row.
    """

    data: Any
    rows: Any


def data_of(batch: Any) -> Any:
    """The rows of a batch, tagged or plain, or the specification of them."""
    return batch.data if isinstance(batch, (ShardedBatch, CountedBatch)) else batch


def is_real(batch: Any) -> bool:
    """Whether a batch, which is not in a graph, is no padding."""
    return not isinstance(batch, (ShardedBatch, CountedBatch)) or float(batch[1]) > 0


def batch_scale_of(own_rows: int, rows: int, size: int) -> float:
    """What the mean over `own_rows` counts in the mean of the ranks' means."""
    return size * own_rows / rows


def dealt_positions(deal: Deal, rank: int, step: int, rows: int) -> np.ndarray:
    """The position of each of a rank's rows, where they are dealt out: step, row of the step."""
    return np.stack([np.full(rows, step), deal.first(rank, rows)], axis=1)


def kept_positions(rank: int, size: int, step: int, rows: int) -> np.ndarray:
    """The position of each of a rank's rows, where it takes whole batches: batch, row in it."""
    return np.stack([np.full(rows, step * size + rank), np.arange(rows)], axis=1)


def with_row_weights(batch: Any) -> Any:
    """A batch for a loop of one's own: the scale as a weight of each row, in the last place.

    Args:
        batch: a `ShardedBatch`, or a plain batch, whose rows all count 1.

    Returns:
        (x, weights), or (x, y, weights); given sample weights are multiplied by the scale.
    """
    data, scale = batch if isinstance(batch, ShardedBatch) else (batch, tf.constant(1.0))
    fields = tuple(data) if isinstance(data, tuple) else (data,)
    if len(fields) == 3:
        weights = tf.nest.map_structure(lambda w: w * tf.cast(scale, w.dtype), fields[2])
        return (*fields[:2], weights)
    return (*fields, tf.fill([batch_rows(fields)], tf.cast(scale, tf.float32)))
