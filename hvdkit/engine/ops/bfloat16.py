"""Allreduce of bfloat16, which Horovod's does not know.

The bits travel as uint16: each rank gets one slice of every other rank's values (alltoall),
sums it in float32, and sends the sum round (allgather). That is reduce-scatter and allgather,
so each rank sends 2 (N-1)/N times the tensor as a ring allreduce does, with half the bytes of
float32 and one rounding of the sum instead of N-1.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from hvdkit.engine.native import Average, ProcessSet, mpi_ops
from hvdkit.engine.ops.graphs import named, not_constant
from hvdkit.engine.topology import ranks_when_run


def allreduce_bfloat16(
    tensors: list[tf.Tensor],
    op: int,
    *,
    name: str,
    prescale: float,
    postscale: float,
    process_set: ProcessSet,
) -> list[tf.Tensor]:
    """Sum or average bfloat16 tensors over ranks, all of them in one exchange.

    Args:
        tensors: bfloat16, of any shapes, the same on all ranks.
        op: `Average` or `Sum`.
        name: what the exchange is called between ranks; the same on all of them.
        prescale: factor before the sum, applied in float32.
        postscale: factor after the sum, applied in float32.
        process_set: the ranks that take part.

    Returns:
        bfloat16 tensors of the shapes of `tensors`. The gradient is reduced in the same way.
    """
    factor = prescale * postscale * tf.ones([])
    if op == Average:
        factor /= tf.cast(ranks_when_run(process_set), tf.float32)

    @tf.custom_gradient
    def reduced(*values: tf.Tensor) -> tuple[list[tf.Tensor], Callable[..., list[tf.Tensor]]]:
        def gradient(*upstream: tf.Tensor) -> list[tf.Tensor]:
            return allreduce_bfloat16(
                list(upstream),
                op,
                name=f"{name}_gradient",
                prescale=prescale,
                postscale=postscale,
                process_set=process_set,
            )

        return _exchanged(list(values), factor, name, process_set), gradient

    return list(reduced(*tensors))


def _exchanged(
    tensors: list[tf.Tensor],
    factor: tf.Tensor,
    name: str,
    process_set: ProcessSet,
) -> list[tf.Tensor]:
    ranks = ranks_when_run(process_set)
    flat = tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], 0)
    length = tf.size(flat)
    slice_length = -(-length // ranks)
    flat = tf.pad(flat, [[0, slice_length * ranks - length]])
    flat = not_constant(flat)
    with named(f"{name}_slices") as operation:
        received = mpi_ops.alltoall(_bits(flat), process_set=process_set, **operation)
    contributions = tf.reshape(_values(received), [ranks, slice_length])
    total = tf.reduce_sum(tf.cast(contributions, tf.float32), 0) * factor
    sums = _bits(tf.cast(total, tf.bfloat16))
    with named(f"{name}_sums") as operation:
        gathered = mpi_ops.allgather(sums, process_set=process_set, **operation)
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
