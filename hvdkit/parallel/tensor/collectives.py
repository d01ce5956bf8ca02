"""The collectives of a tensor group, along any axis and without gradients.

Horovod's work along the first axis. An axis is moved to the front, or away from it, in one copy: a
gathered tensor comes as [rank, ...] and is transposed once after it, one to be scattered goes as
[rank, ...] and is transposed once before it.
"""

from __future__ import annotations

import tensorflow as tf

from hvdkit.engine import Sum, ops
from hvdkit.mesh.mesh import Mesh
from hvdkit.parallel.tensor.degrees import shard_size
from hvdkit.parallel.tensor.traffic import note


def all_reduce(tensor: tf.Tensor, mesh: Mesh, name: str, op: int = Sum) -> tf.Tensor:
    """Combine `tensor` of all ranks of the group, by default as a sum; each gets the result."""
    note("all-reduce", tensor, 2 * (mesh.tensor - 1) / mesh.tensor)
    return ops.allreduce(tensor, op, name=name, process_set=mesh.tensor_set)


def all_gather(tensor: tf.Tensor, mesh: Mesh, axis: int, name: str) -> tf.Tensor:
    """The shards of all ranks of the group, joined along `axis` in the order of the ranks."""
    note("all-gather", tensor, mesh.tensor - 1)
    axis %= tensor.shape.rank
    unsharded = _shape(tensor)
    unsharded[axis] = unsharded[axis] * mesh.tensor
    stacked = ops.allgather(tensor[tf.newaxis], name=name, process_set=mesh.tensor_set)
    behind = range(axis + 1, tensor.shape.rank + 1)
    return _reshaped(tf.transpose(stacked, [*range(1, axis + 1), 0, *behind]), unsharded)


def reduce_scatter(tensor: tf.Tensor, mesh: Mesh, axis: int, name: str) -> tf.Tensor:
    """This rank's shard along `axis` of the sum over the group."""
    note("reduce-scatter", tensor, (mesh.tensor - 1) / mesh.tensor)
    axis %= tensor.shape.rank
    shape = _shape(tensor)
    shard = [*shape[:axis], shard_size(shape[axis], mesh), *shape[axis + 1 :]]
    shards = _reshaped(tensor, [*shape[:axis], mesh.tensor, *shard[axis:]])
    others = [i for i in range(tensor.shape.rank + 1) if i != axis]
    stacked = tf.transpose(shards, [axis, *others])
    (own,) = ops.grouped_reducescatter([stacked], Sum, name=name, process_set=mesh.tensor_set)
    return _reshaped(own, shard)


def own_shard(tensor: tf.Tensor, mesh: Mesh, axis: int) -> tf.Tensor:
    """This rank's shard of `tensor` along `axis`; nothing is communicated."""
    axis %= tensor.shape.rank
    shape = _shape(tensor)
    shape[axis] = shard_size(shape[axis], mesh)
    begin: list[int | tf.Tensor] = [0] * tensor.shape.rank
    begin[axis] = shape[axis] * mesh.tensor_index
    shard = tf.slice(tensor, begin, shape)
    return tf.ensure_shape(shard, _static(shape))


def _shape(tensor: tf.Tensor) -> list[int | tf.Tensor]:
    """The sizes of a tensor: numbers where they are known."""
    dynamic = tf.shape(tensor)
    return [dynamic[i] if n is None else n for i, n in enumerate(tensor.shape)]


def _reshaped(tensor: tf.Tensor, shape: list[int | tf.Tensor]) -> tf.Tensor:
    return tf.ensure_shape(tf.reshape(tensor, shape), _static(shape))


def _static(shape: list[int | tf.Tensor]) -> list[int | None]:
    return [n if isinstance(n, int) else None for n in shape]
