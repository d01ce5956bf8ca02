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
from hvdkit.engine.topology import process_set_size


def allreduce_bfloat16(
    tensors: list[tf.Tensor],
    op: int,
    *,
    name: str | None,
    prescale: float,
    postscale: float,
    process_set: ProcessSet,
    ignore_name_scope: bool,
) -> list[tf.Tensor]:
    """Sum or average bfloat16 tensors over ranks, all of them in one exchange.

    Args:
        tensors: bfloat16, of any shapes, the same on all ranks.
        op: `Average` or `Sum`.
        name: what the exchange is called between ranks; the same on all of them.
        prescale: factor before the sum, applied in float32.
        postscale: factor after the sum, applied in float32.
        process_set: the ranks that take part.
        ignore_name_scope: leave TensorFlow's name scopes out of the name.

    Returns:
        bfloat16 tensors of the shapes of `tensors`. The gradient is reduced in the same way.
    """
    factor = prescale * postscale / (process_set_size(process_set) if op == Average else 1)

    @tf.custom_gradient
    def reduced(*values: tf.Tensor) -> tuple[list[tf.Tensor], Callable[..., list[tf.Tensor]]]:
        def gradient(*upstream: tf.Tensor) -> list[tf.Tensor]:
            return allreduce_bfloat16(
                list(upstream),
                op,
                name=name and f"{name}_gradient",
                prescale=prescale,
                postscale=postscale,
                process_set=process_set,
                ignore_name_scope=ignore_name_scope,
            )

        return _exchanged(list(values), factor, name, process_set, ignore_name_scope), gradient

    return list(reduced(*tensors))


def _exchanged(
    tensors: list[tf.Tensor],
    factor: float,
    name: str | None,
    process_set: ProcessSet,
    ignore_name_scope: bool,
) -> list[tf.Tensor]:
    ranks = process_set_size(process_set)
    flat = tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], 0)
    length = tf.size(flat)
    slice_length = -(-length // ranks)
    flat = tf.pad(flat, [[0, slice_length * ranks - length]])
    options = {"process_set": process_set, "ignore_name_scope": ignore_name_scope}
    received = mpi_ops.alltoall(_bits(flat), name=name and f"{name}_slices", **options)
    contributions = tf.reshape(_values(received), [ranks, slice_length])
    total = tf.reduce_sum(tf.cast(contributions, tf.float32), 0) * factor
    sums = _bits(tf.cast(total, tf.bfloat16))
    gathered = mpi_ops.allgather(sums, name=name and f"{name}_sums", **options)
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
