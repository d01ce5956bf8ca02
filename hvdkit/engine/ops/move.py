"""Collectives that only move: values travel as they are, or as their bits (`bits.py`)."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from hvdkit.engine.error_messages import explained
from hvdkit.engine.native import (
    Average,
    ProcessSet,
    global_process_set,
    mpi_ops,
    require_initialized,
)
from hvdkit.engine.ops.bits import MOVABLE, moved
from hvdkit.engine.ops.by_dtype import by_type, described
from hvdkit.engine.ops.graphs import differentiable, named, not_constant
from hvdkit.engine.ops.reduce import allreduce
from hvdkit.engine.topology import (
    place_when_run,
    process_set_ranks,
    ranks_when_run,
    require_member,
    require_root,
)


def allgather(
    tensor: tf.Tensor,
    *,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
) -> tf.Tensor:
    """Concatenate `tensor` of all ranks along the first dimension, which may differ by rank."""
    require_initialized("an allgather")
    require_member(process_set)
    if tensor.shape.rank == 0:
        tensor = tf.reshape(tensor, [1])

    own_name = name or "allgather"

    def gather(part: tf.Tensor) -> tuple[tf.Tensor]:
        part = not_constant(part)
        with named(own_name) as operation:
            return (mpi_ops.allgather(part, process_set=process_set, **operation),)

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        return _own_rows(upstream, tensor, own_name, process_set)

    with explained(described("allgather", name), [tensor], process_set=process_set) as outputs:
        outputs += moved(tensor, gather, gradient)
    return outputs[0]


def grouped_allgather(
    tensors: Sequence[tf.Tensor],
    *,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
) -> list[tf.Tensor]:
    """`allgather` of several tensors, in one operation for each type that Horovod moves."""
    require_initialized("an allgather")
    require_member(process_set)
    tensors = [tf.reshape(t, [1]) if t.shape.rank == 0 else t for t in tensors]

    def gather_movable(members: list[tf.Tensor], own_name: str) -> list[tf.Tensor]:
        def gather(*parts: tf.Tensor) -> list[tf.Tensor]:
            anchored = [not_constant(part) for part in parts]
            with named(own_name) as operation:
                return list(
                    mpi_ops.grouped_allgather(anchored, process_set=process_set, **operation)
                )

        def gradient(*upstream: tf.Tensor) -> list[tf.Tensor]:
            return [
                _own_rows(mean, member, f"{own_name}_{i}", process_set)
                for i, (mean, member) in enumerate(zip(upstream, members, strict=True))
            ]

        with explained(described("allgather", name), members, process_set=process_set) as outputs:
            outputs += differentiable(gather, gradient, members)
        return outputs

    def gather_one_type(members: list[tf.Tensor], own_name: str) -> list[tf.Tensor]:
        if members[0].dtype in MOVABLE:
            return gather_movable(members, own_name)
        return [
            allgather(member, name=f"{own_name}_{i}", process_set=process_set)
            for i, member in enumerate(members)
        ]

    return by_type(tensors, name or "grouped_allgather", gather_one_type)


def _own_rows(
    upstream: tf.Tensor, tensor: tf.Tensor, name: str, process_set: ProcessSet
) -> tf.Tensor:
    """The gradient of an allgather of `tensor`: the mean over ranks of that of its rows."""
    mean = allreduce(upstream, Average, name=f"{name}_gradient", process_set=process_set)
    rows = allgather(tf.shape(tensor)[:1], name=f"{name}_rows", process_set=process_set)
    place = place_when_run(process_set)
    begin = tf.reduce_sum(rows[:place])
    return tf.ensure_shape(mean[begin : begin + rows[place]], tensor.shape)


def broadcast(
    tensor: tf.Tensor,
    root_rank: int,
    *,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
) -> tf.Tensor:
    """Rank `root_rank`'s `tensor`, on every rank; of one shape and type on all of them.

    Raises:
        ValueError: there is no such rank in the process set.
    """
    require_initialized("a broadcast")
    require_member(process_set)
    require_root(root_rank, process_set)

    own_name = name or "broadcast"

    def send(part: tf.Tensor) -> tuple[tf.Tensor]:
        part = not_constant(part)
        with named(own_name) as operation:
            return (mpi_ops.broadcast(part, root_rank, process_set=process_set, **operation),)

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        # The others get no rows, so their sum is 0.
        ranks = ranks_when_run(process_set)
        to_root = tf.one_hot(process_set_ranks(process_set).index(root_rank), ranks, dtype=tf.int32)
        parts, _ = alltoall(
            upstream[tf.newaxis], to_root, name=f"{own_name}_gradient", process_set=process_set
        )
        total = tf.reduce_sum(tf.cast(parts, tf.float32), 0)
        return tf.cast(total / tf.cast(ranks, tf.float32), upstream.dtype)

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
) -> tf.Tensor | tuple[tf.Tensor, tf.Tensor]:
    """Send `splits[r]` rows of `tensor` to each rank r and receive as many as they send.

    Returns:
        The received rows in rank order; with `splits`, also how many came from each rank.
    """
    require_initialized("an alltoall")
    require_member(process_set)
    # Horovod takes the shape of the splits for that of those received, though none are given.
    counts = not_constant(tf.zeros([0], tf.int32), [None]) if splits is None else splits

    own_name = name or "alltoall"

    def exchange(part: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        part = not_constant(part)
        with named(own_name) as operation:
            rows, from_each = mpi_ops.alltoall(
                part, splits=counts, process_set=process_set, **operation
            )
        return rows, from_each

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        return alltoall(
            upstream, received_splits, name=f"{own_name}_gradient", process_set=process_set
        )[0]

    with explained(described("alltoall", name), [tensor], process_set=process_set) as outputs:
        received, received_splits = moved(tensor, exchange, gradient)
        outputs.append(received)
    return received if splits is None else (received, received_splits)
