"""Collectives that bring values to other ranks as they are: allgather, broadcast, alltoall."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from hvdkit.collectives.values import tensor_keyword, to_tensor
from hvdkit.engine import ProcessSet, global_process_set, ops, require_initialized, topology
from hvdkit.engine.tensorflow_errors import InvalidArgumentError


@tf.autograph.experimental.do_not_convert
@tensor_keyword
def allgather(
    value: Any,
    name: str | None = None,
    ignore_name_scope: bool = False,
    process_set: ProcessSet = global_process_set,
) -> Any:
    """Concatenate a value of each rank along the first dimension.

    Args:
        value: a tensor, variable or array, whose first dimension may differ by rank; or a
            number, of which all ranks' make one array.
        name: the operation's name on a timeline; the same on all ranks.
        ignore_name_scope: kept for scripts written for Horovod; names never hold name scopes.
        process_set: the ranks that take part.

    Returns:
        A tensor or an array with the rows of all ranks, in rank order.
    """
    del ignore_name_scope
    require_initialized("hvd.allgather()")
    tensor, restore = to_tensor(value)
    return restore(ops.allgather(tensor, name=name, process_set=process_set))


@tf.autograph.experimental.do_not_convert
def grouped_allgather(
    tensors: Sequence[Any],
    name: str | None = None,
    ignore_name_scope: bool = False,
    process_set: ProcessSet = global_process_set,
) -> list[Any]:
    """`allgather` of several values in one operation; arguments as there."""
    del ignore_name_scope
    require_initialized("hvd.grouped_allgather()")
    if not tensors:
        return []
    converted = [to_tensor(value) for value in tensors]
    gathered = ops.grouped_allgather(
        [tensor for tensor, _ in converted],
        name=name,
        process_set=process_set,
    )
    return [restore(t) for t, (_, restore) in zip(gathered, converted, strict=True)]


@tf.autograph.experimental.do_not_convert
@tensor_keyword
def broadcast(
    value: Any,
    root_rank: int,
    name: str | None = None,
    ignore_name_scope: bool = False,
    process_set: ProcessSet = global_process_set,
) -> Any:
    """The value of one rank, on every rank.

    Args:
        value: a tensor, variable, array or number of one shape and type on all ranks.
        root_rank: the (global) rank whose value counts.
        name: the operation's name on a timeline; the same on all ranks.
        ignore_name_scope: kept for scripts written for Horovod; names never hold name scopes.
        process_set: the ranks that take part.

    Returns:
        The root's value, of the kind of `value`.

    Raises:
        ValueError: there is no such rank in the process set.
    """
    del ignore_name_scope
    require_initialized("hvd.broadcast()")
    tensor, restore = to_tensor(value)
    return restore(
        ops.broadcast(
            tensor,
            root_rank,
            name=name,
            process_set=process_set,
        )
    )


@tf.autograph.experimental.do_not_convert
def alltoall(
    tensor: Any,
    splits: Any = None,
    name: str | None = None,
    ignore_name_scope: bool = False,
    process_set: ProcessSet = global_process_set,
) -> Any:
    """Send some rows to each rank, and receive some from each.

    Args:
        tensor: a tensor, variable or array; its rows go to the ranks in order.
        splits: how many rows go to each rank; by default equally many.
        name: the operation's name on a timeline; the same on all ranks.
        ignore_name_scope: kept for scripts written for Horovod; names never hold name scopes.
        process_set: the ranks that take part.

    Returns:
        The received rows in rank order; with `splits`, also how many came from each rank.

    Raises:
        ValueError: the rows do not divide by the ranks, or `splits` does not add up to them; it is
            TensorFlow's InvalidArgumentError, too.
    """
    del ignore_name_scope
    require_initialized("hvd.alltoall()")
    topology.require_member(process_set)
    converted, restore = to_tensor(tensor)
    if converted.shape.rank == 0:
        raise ValueError("alltoall divides the first dimension; a number has none.")
    rows, ranks = converted.shape[0], topology.process_set_size(process_set)
    if splits is None:
        if rows is not None and rows % ranks:
            raise InvalidArgumentError(
                f"{rows} rows do not divide by {ranks} ranks: give alltoall splits."
            )
        return restore(
            ops.alltoall(
                converted,
                name=name,
                process_set=process_set,
            )
        )
    counts = tf.cast(tf.convert_to_tensor(splits), tf.int32)
    static = tf.get_static_value(counts)
    if static is not None and rows is not None and (len(static), static.sum()) != (ranks, rows):
        raise InvalidArgumentError(
            f"splits gives {len(static)} ranks {static.sum()} rows, but there are {ranks} ranks "
            f"and {rows} rows."
        )
    received, received_splits = ops.alltoall(
        converted,
        counts,
        name=name,
        process_set=process_set,
    )
    return restore(received), restore(received_splits)
