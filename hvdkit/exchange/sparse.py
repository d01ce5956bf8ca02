"""Gradients of embeddings: rows and their indices (`tf.IndexedSlices`)."""

from __future__ import annotations

import tensorflow as tf

from hvdkit.engine import Average, ProcessSet, Sum, ops, topology
from hvdkit.exchange.base import Codec


def combine_duplicates(slices: tf.IndexedSlices) -> tf.IndexedSlices:
    """Add up the rows that have the same index, so that each index occurs once.

    Keras's optimizers apply duplicate rows one after the other, which for all but the linear
    ones is not the gradient's step; combined, the step equals that of the dense gradient.
    """
    indices, positions = tf.unique(slices.indices)
    values = tf.math.unsorted_segment_sum(slices.values, positions, tf.size(indices))
    return tf.IndexedSlices(values, indices, slices.dense_shape)


def allreduce_slices(
    slices: tf.IndexedSlices,
    op: int,
    codec: Codec,
    process_set: ProcessSet,
    name: str = "sparse",
) -> tf.IndexedSlices:
    """Average or sum sparse gradients: gather the rows of all ranks, add up equal indices.

    Args:
        slices: this rank's rows; ranks may have different numbers of them. Fewer travel where
            indices were combined before.
        op: `Average` or `Sum`.
        codec: how the rows travel; an additive one.
        process_set: the ranks that take part.
        name: names the operations between ranks.

    Returns:
        The same slices on every rank, each index once.
    """
    if op not in (Average, Sum):
        raise ValueError(
            "sparse gradients can be averaged and summed, nothing else; "
            "pass sparse_as_dense=True for another operation."
        )
    values, context = codec.encode(slices.values)
    values = ops.allgather(values, name=f"{name}.rows", process_set=process_set)
    gathered = codec.decode(values, context)
    indices = ops.allgather(slices.indices, name=f"{name}.indices", process_set=process_set)
    if op == Average:
        gathered = gathered / tf.cast(topology.ranks_when_run(process_set), gathered.dtype)
    return combine_duplicates(tf.IndexedSlices(gathered, indices, slices.dense_shape))
