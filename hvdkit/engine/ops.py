"""Collectives on tensors: TensorFlow in, TensorFlow out, nothing converted for the user.

Horovod's allreduce and reduce-scatter know neither bool, most of the integers, nor bfloat16, and
the average of its small integers overflows. Integers travel as int64 or int32; bfloat16 is
reduced by an exchange of its bits (`bfloat16.py`), so it really halves the bytes. What is only
moved travels as it is, or as its bits (`bits.py`).

Names of operations count in graphs. Eagerly TensorFlow does not pass them on, and every allreduce
is called "HorovodAllreduce" between ranks.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from hvdkit.engine.bfloat16 import allreduce_bfloat16
from hvdkit.engine.bits import MOVABLE, moved
from hvdkit.engine.failures import explained
from hvdkit.engine.native import (
    OP_NAMES,
    Adasum,
    Average,
    ProcessSet,
    Sum,
    global_process_set,
    library,
    mpi_ops,
    require_initialized,
)
from hvdkit.engine.topology import (
    process_set_ranks,
    process_set_size,
    rank,
    require_member,
    require_root,
)

_REDUCIBLE = frozenset({tf.int32, tf.int64, tf.float16, tf.float32, tf.float64, tf.bfloat16})
_TRAVELS_AS = {
    tf.bool: tf.int32,
    tf.int8: tf.int32,
    tf.uint8: tf.int32,
    tf.int16: tf.int32,
    tf.uint16: tf.int32,
    tf.uint32: tf.int64,
    tf.uint64: tf.int64,
}


def _travelling(tensor: tf.Tensor) -> tf.Tensor:
    if tensor.dtype in _REDUCIBLE:
        return tensor
    if tensor.dtype in _TRAVELS_AS:
        return tf.cast(tensor, _TRAVELS_AS[tensor.dtype])
    raise TypeError(
        f"a tensor of type {tensor.dtype.name} can't be reduced over ranks; "
        "cast it to a float or integer type first."
    )


def allreduce(
    tensor: tf.Tensor,
    op: int = Average,
    *,
    name: str | None = None,
    prescale: float = 1.0,
    postscale: float = 1.0,
    process_set: ProcessSet = global_process_set,
    ignore_name_scope: bool = False,
) -> tf.Tensor:
    """Reduce `tensor` over the ranks of `process_set`; every rank gets the result.

    Args:
        tensor: of one shape and type on all ranks.
        op: `Average`, `Sum`, `Adasum`, `Min`, `Max` or `Product`.
        name: what the operation is called between ranks; the same on all of them.
        prescale: factor before the reduction.
        postscale: factor after the reduction.
        process_set: the ranks that take part.
        ignore_name_scope: leave TensorFlow's name scopes out of the name.

    Returns:
        A tensor of the shape and type of `tensor`.
    """
    return grouped_allreduce(
        [tensor],
        op,
        name=name,
        prescale=prescale,
        postscale=postscale,
        process_set=process_set,
        ignore_name_scope=ignore_name_scope,
    )[0]


def grouped_allreduce(
    tensors: Sequence[tf.Tensor],
    op: int = Average,
    *,
    name: str | None = None,
    prescale: float = 1.0,
    postscale: float = 1.0,
    process_set: ProcessSet = global_process_set,
    ignore_name_scope: bool = False,
) -> list[tf.Tensor]:
    """Reduce several tensors in one operation, which starts when all of them exist.

    Tensors of different types are reduced in one operation for each type. Arguments as in
    `allreduce`; the order of `tensors` is the same on all ranks.
    """
    require_initialized("an allreduce")
    require_member(process_set)
    travelling = [_travelling(tensor) for tensor in tensors]
    if op == Adasum and not all(tensor.dtype.is_floating for tensor in travelling):
        raise TypeError("hvd.Adasum combines floats, no integers.")
    reduced: list[tf.Tensor] = list(travelling)
    for dtype in dict.fromkeys(tensor.dtype for tensor in travelling):
        places = [i for i, tensor in enumerate(travelling) if tensor.dtype == dtype]
        members = [travelling[i] for i in places]
        typed_name = _typed_name(name, dtype, len(tensors) > len(places))
        with explained(
            _named("allreduce", name), members, f"with hvd.{OP_NAMES[op]}", process_set
        ) as outputs:
            if dtype == tf.bfloat16:
                if op not in (Average, Sum):
                    raise TypeError("bfloat16 tensors can be averaged and summed, nothing else.")
                results = allreduce_bfloat16(
                    members,
                    op,
                    name=typed_name,
                    prescale=prescale,
                    postscale=postscale,
                    process_set=process_set,
                    ignore_name_scope=ignore_name_scope,
                )
            else:
                results = _reduce_one_type(
                    members, op, typed_name, prescale, postscale, process_set, ignore_name_scope
                )
            outputs += results
        for place, result in zip(places, results, strict=True):
            reduced[place] = result
    return [
        tf.cast(result, tensor.dtype) if result.dtype != tensor.dtype else result
        for result, tensor in zip(reduced, tensors, strict=True)
    ]


def _named(collective: str, name: str | None) -> str:
    return collective if name is None else f"{collective} {name!r}"


def _typed_name(name: str | None, dtype: tf.DType, mixed: bool) -> str | None:
    return f"{name}_{dtype.name}" if name is not None and mixed else name


def _reduce_one_type(
    tensors: list[tf.Tensor],
    op: int,
    name: str | None,
    prescale: float,
    postscale: float,
    process_set: ProcessSet,
    ignore_name_scope: bool,
) -> list[tf.Tensor]:
    options = {
        "name": name,
        "reduce_op": op,
        "prescale_factor": prescale,
        "postscale_factor": postscale,
        "ignore_name_scope": ignore_name_scope,
        "process_set_id": process_set.process_set_id,
    }
    if len(tensors) == 1:
        return [library.horovod_allreduce(tensors[0], **options)]
    return list(library.horovod_grouped_allreduce(tensors, **options))


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

    with explained(_named("allgather", name), [tensor], process_set=process_set) as outputs:
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
    gathered = list(tensors)
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        places = [i for i, tensor in enumerate(tensors) if tensor.dtype == dtype]
        typed_name = _typed_name(name, dtype, len(tensors) > len(places))
        members = [tensors[i] for i in places]
        if dtype in MOVABLE:
            with explained(_named("allgather", name), members, process_set=process_set) as results:
                results += mpi_ops.grouped_allgather(members, name=typed_name, **options)
        else:
            results = [
                allgather(member, name=typed_name and f"{typed_name}_{i}", **options)
                for i, member in enumerate(members)
            ]
        for place, result in zip(places, results, strict=True):
            gathered[place] = result
    return gathered


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

    with explained(
        _named("broadcast", name), [tensor], f"from rank {root_rank}", process_set
    ) as outputs:
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

    with explained(_named("alltoall", name), [tensor], process_set=process_set) as outputs:
        received, received_splits = moved(tensor, exchange, gradient)
        outputs.append(received)
    return received if splits is None else (received, received_splits)


def grouped_reducescatter(
    tensors: Sequence[tf.Tensor],
    op: int = Average,
    *,
    name: str | None = None,
    prescale: float = 1.0,
    postscale: float = 1.0,
    process_set: ProcessSet = global_process_set,
    ignore_name_scope: bool = False,
) -> list[tf.Tensor]:
    """Reduce tensors over ranks and leave each rank its slice of the first dimension.

    Where the dimension does not divide, the first ranks get one row more.
    """
    require_initialized("a reducescatter")
    require_member(process_set)
    if op not in (Average, Sum):
        raise ValueError("reducescatter knows the operations hvd.Average and hvd.Sum only.")
    results = []
    for i, tensor in enumerate(tensors):
        wire = _travelling(tensor)
        wire = tf.cast(wire, tf.float32) if wire.dtype == tf.bfloat16 else wire
        with explained(
            _named("reducescatter", name), [tensor], f"with hvd.{OP_NAMES[op]}", process_set
        ) as outputs:
            result = mpi_ops._reducescatter(
                wire,
                op=op,
                name=f"{name}_{i}" if name is not None and len(tensors) > 1 else name,
                prescale_factor=prescale,
                postscale_factor=postscale,
                process_set=process_set,
                ignore_name_scope=ignore_name_scope,
            )
            outputs.append(result)
        results.append(tf.cast(result, tensor.dtype))
    return results


def barrier(process_set: ProcessSet = global_process_set) -> None:
    """Wait until every rank of `process_set` has come here."""
    require_initialized("hvd.barrier()")
    with tf.init_scope():
        allreduce(tf.zeros([], tf.int32), Sum, name="hvdkit.barrier", process_set=process_set)


def join() -> int:
    """Say that this rank has no more data, and wait for the others.

    Until then the rank takes part in the others' allreduces with zeros.

    Returns:
        The last rank that joined.
    """
    require_initialized("hvd.join()")
    # Horovod's operation has no inputs and is not marked as stateful, so TensorFlow runs it once
    # and keeps the result. In a new function it runs again.
    with tf.init_scope(), explained("join"):
        return int(tf.function(lambda: mpi_ops.join())())
