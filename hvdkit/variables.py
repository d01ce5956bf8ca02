"""Variables between ranks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from hvdkit.engine import ProcessSet, global_process_set, ops, require_initialized, topology


def can_be_sent(variable: Any) -> bool:
    """Whether a variable holds numbers."""
    dtype = tf.as_dtype(variable.dtype)
    return bool(dtype.is_floating or dtype.is_integer or dtype.is_bool or dtype.is_complex)


def _raw(variable: Any) -> Any:
    return variable.value if isinstance(variable, keras.Variable) else variable


def broadcast_variables(
    variables: Iterable[Any],
    root_rank: int,
    process_set: ProcessSet = global_process_set,
    inplace: bool = False,
) -> None:
    """Assign rank `root_rank`'s values to variables, on every rank.

    Args:
        variables: `keras.Variable` or `tf.Variable`, in the same order on all ranks.
        root_rank: the (global) rank that sends.
        process_set: the ranks that take part.
        inplace: kept for scripts written for Horovod; the result is the same.

    Raises:
        NotInitializedError: `init` has not been called.
        ValueError: this rank, or the root, does not belong to the process set.
    """
    del inplace
    require_initialized("hvd.broadcast_variables()")
    topology.require_member(process_set)
    topology.require_root(root_rank, process_set)
    if topology.process_set_size(process_set) == 1:
        return
    for position, variable in enumerate(variables):
        raw = _raw(variable)
        value = ops.broadcast(
            tf.convert_to_tensor(raw),
            root_rank,
            name=f"hvdkit.variable.{position}",
            process_set=process_set,
        )
        if topology.rank() != root_rank:
            raw.assign(value)


def broadcast_(
    variables: Sequence[Any],
    root_rank: int,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
) -> list[tf.Tensor]:
    """`broadcast_variables` that returns the values, under Horovod's name.

    Args:
        variables: see `broadcast_variables`.
        root_rank: see `broadcast_variables`.
        name: kept for scripts written for Horovod.
        process_set: the ranks that take part.

    Returns:
        The values of the variables after it.
    """
    del name
    broadcast_variables(variables, root_rank, process_set)
    return [tf.convert_to_tensor(_raw(variable)) for variable in variables]


def broadcast_global_variables(root_rank: int) -> Any:
    """Broadcast all variables of a TensorFlow 1 graph.

    Args:
        root_rank: the rank that sends.

    Returns:
        The operation that does it.

    Raises:
        RuntimeError: in eager mode, where TensorFlow keeps no list of variables, as in Horovod.
    """
    require_initialized("hvd.broadcast_global_variables()")
    if tf.executing_eagerly():
        raise RuntimeError(
            "TensorFlow 2 keeps no list of global variables. Use "
            "hvd.broadcast_variables(model.variables, root_rank) and "
            "hvd.broadcast_variables(optimizer.variables, root_rank), or "
            "hvd.callbacks.BroadcastGlobalVariablesCallback(root_rank)."
        )
    return tf.group(
        *[
            variable.assign(ops.broadcast(variable.read_value(), root_rank))
            for variable in tf.compat.v1.global_variables()
        ]
    )
