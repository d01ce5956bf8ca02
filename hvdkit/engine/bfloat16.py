"""Allreduce of bfloat16, which Horovod's does not know.

The bits travel as uint16: each rank gets one slice of every other rank's values (alltoall),
sums it in float32, and sends the sum round (allgather). That is reduce-scatter and allgather,
so each rank sends 2 (N-1)/N times the tensor as a ring allreduce does, with half the bytes of
float32 and one rounding of the sum instead of N-1.
"""

from __future__ import annotations

import tensorflow as tf

from hvdkit.engine.native import Average, ProcessSet, mpi_ops
from hvdkit.engine.topology import process_set_size


def allreduce_bfloat16(
    tensors: list[tf.Tensor],
    op: int,
    *,
    prescale: float,
    postscale: float,
    process_set: ProcessSet,
) -> list[tf.Tensor]:
    """Sum or average bfloat16 tensors over ranks, all of them in one exchange.

    Args:
        tensors: bfloat16, of any shapes, the same on all ranks.
        op: `Average` or `Sum`.
        prescale: factor before the sum, applied in float32.
        postscale: factor after the sum, applied in float32.
        process_set: the ranks that take part.

    Returns:
        bfloat16 tensors of the shapes of `tensors`.
    """
    ranks = process_set_size(process_set)
    flat = tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], 0)
    length = tf.size(flat)
    slice_length = -(-length // ranks)
    flat = tf.pad(flat, [[0, slice_length * ranks - length]])
    received = mpi_ops.alltoall(_bits(flat), process_set=process_set)
    contributions = tf.reshape(_values(received), [ranks, slice_length])
    factor = prescale * postscale / (ranks if op == Average else 1)
    total = tf.reduce_sum(tf.cast(contributions, tf.float32), 0) * factor
    gathered = mpi_ops.allgather(_bits(tf.cast(total, tf.bfloat16)), process_set=process_set)
    whole = _values(gathered)[:length]
    sizes = [tf.size(tensor) for tensor in tensors]
    parts = tf.split(whole, sizes) if len(tensors) > 1 else [whole]
    return [
        tf.ensure_shape(tf.reshape(part, tf.shape(tensor)), tensor.shape)
        for part, tensor in zip(parts, tensors, strict=True)
    ]


def _bits(values: tf.Tensor) -> tf.Tensor:
    return tf.bitcast(values, tf.uint16)


def _values(bits: tf.Tensor) -> tf.Tensor:
    return tf.bitcast(bits, tf.bfloat16)
