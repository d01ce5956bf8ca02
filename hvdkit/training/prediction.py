"""Predictions of all ranks, in the order of the input."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.data.sharded import ShardedAdapter
from hvdkit.engine import allgather_object, ops
from hvdkit.mesh.mesh import replicas


def predict_over_ranks(outputs: Any, adapter: ShardedAdapter) -> Any:
    """Collect what each rank predicted.

    Args:
        outputs: this rank's predictions: arrays with a row for each of its rows.
        adapter: what the rank read, which knows where its rows stand in the whole data.

    Returns:
        Arrays with a row for each row of the whole data, in its order, on every rank.
    """
    ranks = replicas()
    rows = len(keras.tree.flatten(outputs)[0])
    positions = ops.allgather(
        tf.constant(adapter.positions(rows), tf.int64), process_set=ranks
    ).numpy()
    order = np.argsort(positions, kind="stable")

    def gather(own: Any) -> Any:
        if isinstance(own, np.ndarray):
            return ops.allgather(tf.constant(own), process_set=ranks).numpy()[order]
        parts = allgather_object(own, process_set=ranks)  # ragged or sparse
        whole = tf.concat(parts, 0)
        return tf.gather(whole, order)

    return keras.tree.map_structure(gather, outputs)
