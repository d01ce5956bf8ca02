"""Collectives that only move: values travel as they are, or as their bits (`bits.py`)."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from hvdkit.engine.bits import MOVABLE, moved
from hvdkit.engine.failures import explained
from hvdkit.engine.native import (
    Average,
    ProcessSet,
    global_process_set,
    mpi_ops,
    require_initialized,
)
from hvdkit.engine.ops.reducing import allreduce
from hvdkit.engine.ops.shared import by_type, described
from hvdkit.engine.topology import (
    process_set_ranks,
    process_set_size,
    rank,
    require_member,
    require_root,
)


def allgather(
    tensor: tf.Tensor,
    *,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
    ignore_name_scope: bool = False,
) -> tf.Tensor:
    """Concatenate `tensor` of all ranks along the first dimension, which may differ by rank."""
    require_initialized("an allgather")
    require_member(process_set)
    if tensor.shape.rank == 0:
        tensor = tf.reshape(tensor, [1])

    def gather(part: tf.Tensor) -> tuple[tf.Tensor]:
        gathered = mpi_ops.allgather(
            part, name=name, process_set=process_set, ignore_name_scope=ignore_name_scope
        )
        return (gathered,)

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        mean = allreduce(upstream, Average, process_set=process_set)
        rows = mpi_ops.allgather(tf.shape(tensor)[:1], process_set=process_set)
        parts = tf.split(mean, tf.ensure_shape(rows, [process_set_size(process_set)]))
        return parts[process_set_ranks(process_set).index(rank())]

    with explained(described("allgather", name), [tensor], process_set=process_set) as outputs:
        outputs += moved(tensor, gather, gradient)
    return outputs[0]


def grouped_allgather(
    tensors: Sequence[tf.Tensor],
    *,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
    ignore_name_scope: bool = False,
) -> list[tf.Tensor]:
    """`allgather` of several tensors, in one operation for each type that Horovod moves."""
    require_initialized("an allgather")
    require_member(process_set)
    options = {"process_set": process_set, "ignore_name_scope": ignore_name_scope}
    tensors = [tf.reshape(t, [1]) if t.shape.rank == 0 else t for t in tensors]

    def gather_one_type(members: list[tf.Tensor], own_name: str | None) -> list[tf.Tensor]:
        if members[0].dtype in MOVABLE:
            what = described("allgather", name)
            with explained(what, members, process_set=process_set) as outputs:
                outputs += mpi_ops.grouped_allgather(members, name=own_name, **options)
            return outputs
        return [
            allgather(member, name=own_name and f"{own_name}_{i}", **options)
            for i, member in enumerate(members)
        ]

    return by_type(tensors, name, gather_one_type)


def broadcast(
    tensor: tf.Tensor,
    root_rank: int,
    *,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
    ignore_name_scope: bool = False,
) -> tf.Tensor:
    """Rank `root_rank`'s `tensor`, on every rank; of one shape and type on all of them.

    Raises:
        ValueError: there is no such rank in the process set.
    """
    require_initialized("a broadcast")
    require_member(process_set)
    require_root(root_rank, process_set)

    def send(part: tf.Tensor) -> tuple[tf.Tensor]:
        sent = mpi_ops.broadcast(
            part,
            root_rank,
            name=name,
            process_set=process_set,
            ignore_name_scope=ignore_name_scope,
        )
        return (sent,)

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        # The others get no rows, so their sum is 0. Zeros that did not come from the collective
        # would let TensorFlow drop it from their graphs.
        ranks = process_set_ranks(process_set)
        to_root = tf.constant([int(r == root_rank) for r in ranks], tf.int32)
        parts, _ = alltoall(upstream[tf.newaxis], to_root, process_set=process_set)
        total = tf.reduce_sum(tf.cast(parts, tf.float32), 0)
        return tf.cast(total / len(ranks), upstream.dtype)

    what, detail = described("broadcast", name), f"from rank {root_rank}"
    with explained(what, [tensor], detail, process_set) as outputs:
        outputs += moved(tensor, send, gradient)
    return outputs[0]


def alltoall(
    tensor: tf.Tensor,
    splits: tf.Tensor | None = None,
    *,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
    ignore_name_scope: bool = False,
) -> tf.Tensor | tuple[tf.Tensor, tf.Tensor]:
    """Send `splits[r]` rows of `tensor` to each rank r and receive as many as they send.

    Returns:
        The received rows in rank order; with `splits`, also how many came from each rank.
    """
    require_initialized("an alltoall")
    require_member(process_set)
    counts = tf.zeros([0], tf.int32) if splits is None else splits

    def exchange(part: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        rows, from_each = mpi_ops.alltoall(
            part,
            splits=counts,
            name=name,
            process_set=process_set,
            ignore_name_scope=ignore_name_scope,
        )
        return rows, from_each

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        return alltoall(upstream, received_splits, process_set=process_set)[0]

    with explained(described("alltoall", name), [tensor], process_set=process_set) as outputs:
        received, received_splits = moved(tensor, exchange, gradient)
        outputs.append(received)
    return received if splits is None else (received, received_splits)
