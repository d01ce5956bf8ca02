"""Broadcast of several tensors, of which Horovod makes one operation each."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from hvdkit.engine.native import ProcessSet, global_process_set
from hvdkit.engine.ops.move import broadcast

# What is larger travels alone, so that it is not copied.
_LARGE_BYTES = 1 * 2**20


def grouped_broadcast(
    tensors: Sequence[tf.Tensor],
    root_rank: int,
    *,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
) -> list[tf.Tensor]:
    """`broadcast` of several tensors: the bytes of small ones travel in one operation.

    Args:
        tensors: as many on all ranks, of the same types and of the same shapes, which graphs know.
        root_rank: the (global) rank that sends.
        name: what the operations are called between ranks; the same on all of them.
        process_set: the ranks that take part.
    """
    own_name = name or "grouped_broadcast"
    results = list(tensors)
    small = [i for i, tensor in enumerate(tensors) if _can_be_packed(tensor)]
    together = small if len(small) > 1 else []
    for i, tensor in enumerate(tensors):
        if i not in together:
            results[i] = broadcast(
                tensor, root_rank, name=f"{own_name}_{i}", process_set=process_set
            )
    if together:
        given = tf.concat([_as_bytes(tensors[i]) for i in together], 0)
        sent = broadcast(given, root_rank, name=own_name, process_set=process_set)
        parts = tf.split(sent, [_bytes_of(tensors[i]) for i in together])
        for i, part in zip(together, parts, strict=True):
            results[i] = _from_bytes(part, tensors[i])
    return results


def _can_be_packed(tensor: tf.Tensor) -> bool:
    has_bits = tensor.dtype.is_floating or tensor.dtype.is_integer
    return has_bits and tensor.shape.is_fully_defined() and _bytes_of(tensor) < _LARGE_BYTES


def _bytes_of(tensor: tf.Tensor) -> int:
    return int(tensor.shape.num_elements() * tensor.dtype.size)


def _as_bytes(tensor: tf.Tensor) -> tf.Tensor:
    return tf.reshape(tf.bitcast(tensor, tf.uint8), [-1])


def _from_bytes(part: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    shape = like.shape.as_list()
    size = int(like.dtype.size)
    return tf.bitcast(tf.reshape(part, shape if size == 1 else [*shape, size]), like.dtype)
