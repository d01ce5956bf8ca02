"""One rank's part of a global batch."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf


class ShardedBatch(NamedTuple):
    """What the pipeline hands to the training step when data does not divide by the ranks.

    Attributes:
        data: the rank's rows, as `fit` takes them: x, (x, y) or (x, y, sample_weight).
        scale: float32 scalar, N R_r / R for R_r of R rows over N ranks: what the rank's loss,
            averaged over its own rows, counts. 0 marks a padding row on a rank that has none.
    """

    data: Any
    scale: Any


def rank_rows(rank: int, size: int, rows: int) -> np.ndarray:
    """The rows of a global batch that belong to `rank`: every `size`-th (int64)."""
    return np.arange(rank, rows, size)


def batch_scale_of(own_rows: int, rows: int, size: int) -> float:
    """What the mean over `own_rows` counts in the mean of the ranks' means."""
    return size * own_rows / rows


def with_row_weights(batch: Any) -> Any:
    """A batch for a loop of one's own: the scale as a weight of each row, in the last place.

    Args:
        batch: a `ShardedBatch`, or a plain batch, whose rows all count 1.

    Returns:
        (x, weights), or (x, y, weights); given sample weights are multiplied by the scale.
    """
    data, scale = batch if isinstance(batch, ShardedBatch) else (batch, tf.constant(1.0))
    parts = tuple(data) if isinstance(data, tuple) else (data,)
    if len(parts) == 3:
        weights = tf.nest.map_structure(lambda w: w * tf.cast(scale, w.dtype), parts[2])
        return (*parts[:2], weights)
    rows = tf.shape(tf.nest.flatten(parts[0])[0])[0]
    return (*parts, tf.fill([rows], tf.cast(scale, tf.float32)))
