"""Collectives for users: tensors, variables, NumPy arrays and Python numbers.

What comes back is of the kind that went in: a tensor for a tensor, a `tf.Variable` or a
`keras.Variable`; an array for an array; a number for a number. Averages of integer arrays and
numbers are floats, as NumPy's are; those of integer tensors keep their type, as Horovod's do.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.engine import (
    OP_NAMES,
    Adasum,
    Average,
    ProcessSet,
    Sum,
    global_process_set,
    ops,
    require_initialized,
    topology,
)
from hvdkit.reduction.compression import Compression, Compressor
from hvdkit.reduction.sparse import allreduce_slices

_Restore = Callable[[tf.Tensor], Any]
_PYTHON_TYPES = {bool: tf.bool, int: tf.int64, float: tf.float64}


def _tensor_keyword(function: Callable[..., Any]) -> Callable[..., Any]:
    """Also accept the first argument as `tensor=`, its name in `horovod.tensorflow`."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if "tensor" in kwargs:
            if args or "value" in kwargs:
                raise TypeError(f"{function.__name__}() got value and tensor, which are the same.")
            kwargs["value"] = kwargs.pop("tensor")
        return function(*args, **kwargs)

    return wrapper


def _to_tensor(value: Any) -> tuple[tf.Tensor, _Restore]:
    """The value as a tensor, and how to turn a result into the kind of the value."""
    if isinstance(value, keras.Variable):
        return tf.convert_to_tensor(value.value), lambda tensor: tensor
    if tf.is_tensor(value) or isinstance(value, tf.Variable):
        return tf.convert_to_tensor(value), lambda tensor: tensor
    if isinstance(value, (bool, int, float)) and not isinstance(value, np.generic):
        dtype = next(_PYTHON_TYPES[cls] for cls in _PYTHON_TYPES if isinstance(value, cls))
        return tf.constant(value, dtype), _to_python
    array = np.asarray(value)
    if array.dtype.kind not in "fiubcV":
        raise TypeError(
            "collectives take tensors, variables, arrays and numbers, not "
            f"{type(value).__name__}; see hvd.broadcast_object and hvd.allgather_object."
        )
    return tf.constant(array), _to_numpy


def _to_numpy(tensor: tf.Tensor) -> Any:
    return tensor.numpy() if hasattr(tensor, "numpy") else tensor


def _to_python(tensor: tf.Tensor) -> Any:
    array = _to_numpy(tensor)
    return array.item() if isinstance(array, np.generic | np.ndarray) and array.ndim == 0 else array


def _is_tensor(value: Any) -> bool:
    return isinstance(value, (keras.Variable, tf.Variable)) or tf.is_tensor(value)


def _for_op(tensor: tf.Tensor, value: Any, op: int) -> tf.Tensor:
    """An integer that is no tensor is averaged as a float; a bool is counted."""
    if _is_tensor(value):
        return tensor
    if op == Average and not tensor.dtype.is_floating:
        return tf.cast(tensor, tf.float64)
    if op == Sum and tensor.dtype == tf.bool:
        return tf.cast(tensor, tf.int64)
    return tensor


def _operation(op: int | None, average: bool | None) -> int:
    if average is not None:
        if op is not None:
            raise ValueError("give op or average, not both (average is Horovod's old name).")
        warnings.warn("average=... is now op=hvd.Average or hvd.Sum.", DeprecationWarning, 3)
        return Average if average else Sum
    if op is not None and op not in OP_NAMES:
        names = ", ".join(f"hvd.{name}" for name in OP_NAMES.values())
        raise ValueError(f"op is one of {names}, not {op!r}.")
    return Average if op is None else op


def _check_adasum(op: int, process_set: ProcessSet) -> None:
    if op != Adasum:
        return
    if not topology.mpi_enabled():
        raise NotImplementedError("hvd.Adasum needs MPI; start the job with mpirun.")
    if process_set.process_set_id != 0:
        raise NotImplementedError("hvd.Adasum works over all ranks, not over a process set.")
    size = topology.size()
    if size & (size - 1):
        raise NotImplementedError(f"hvd.Adasum needs a power of 2 of ranks, not {size}.")


@tf.autograph.experimental.do_not_convert
@_tensor_keyword
def allreduce(
    value: Any,
    name: str | None = None,
    average: bool | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    op: int | None = None,
    compression: type[Compressor] = Compression.none,
    *,
    device_dense: str = "",
    device_sparse: str = "",
    process_set: ProcessSet = global_process_set,
    ignore_name_scope: bool = False,
) -> Any:
    """Combine a value of each rank; every rank gets the result.

    Args:
        value: a tensor, variable, array or number of one shape on all ranks, or
            `tf.IndexedSlices` (which are gathered, and equal indices added up).
        name: the operation's name on a timeline; the same on all ranks.
        average: Horovod's old name of `op`.
        prescale_factor: factor before the reduction.
        postscale_factor: factor after the reduction.
        op: `hvd.Average` (default), `Sum`, `Adasum`, `Min`, `Max` or `Product`.
        compression: how the value travels.
        device_dense: device for the reduction; "" for the value's own.
        device_sparse: the same for `tf.IndexedSlices`.
        process_set: the ranks that take part.
        ignore_name_scope: leave TensorFlow's name scopes out of the name.

    Returns:
        The result, of the kind of `value`.

    Example:
        >>> hvd.allreduce(1.0, op=hvd.Sum) == hvd.size()
        True
    """
    require_initialized("hvd.allreduce()")
    operation = _operation(op, average)
    _check_adasum(operation, process_set)
    if isinstance(value, tf.IndexedSlices):
        if prescale_factor != 1.0 or postscale_factor != 1.0:
            raise NotImplementedError("tf.IndexedSlices take no prescale or postscale factor.")
        with tf.device(device_sparse or None):
            return allreduce_slices(value, operation, compression, process_set)
    return grouped_allreduce(
        [value],
        None,
        device_dense,
        device_sparse,
        compression,
        operation,
        prescale_factor,
        postscale_factor,
        process_set,
        ignore_name_scope,
        name,
    )[0]


@tf.autograph.experimental.do_not_convert
def grouped_allreduce(
    tensors: Sequence[Any],
    average: bool | None = None,
    device_dense: str = "",
    device_sparse: str = "",
    compression: type[Compressor] = Compression.none,
    op: int | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    process_set: ProcessSet = global_process_set,
    ignore_name_scope: bool = False,
    name: str | None = None,
) -> list[Any]:
    """`allreduce` of several values in one operation; arguments as there."""
    require_initialized("hvd.grouped_allreduce()")
    operation = _operation(op, average)
    _check_adasum(operation, process_set)
    results: list[Any] = list(tensors)
    slices = [i for i, v in enumerate(tensors) if isinstance(v, tf.IndexedSlices)]
    for i in slices:
        results[i] = allreduce(
            tensors[i],
            prescale_factor=prescale_factor,
            postscale_factor=postscale_factor,
            op=operation,
            compression=compression,
            device_sparse=device_sparse,
            process_set=process_set,
        )
    dense = [i for i in range(len(tensors)) if i not in slices]
    converted = [_to_tensor(tensors[i]) for i in dense]
    compressed = [
        compression.compress(_for_op(tensor, tensors[i], operation))
        for i, (tensor, _) in zip(dense, converted, strict=True)
    ]
    with tf.device(device_dense or None):
        reduced = ops.grouped_allreduce(
            [tensor for tensor, _ in compressed],
            operation,
            name=name,
            prescale=prescale_factor,
            postscale=postscale_factor,
            process_set=process_set,
            ignore_name_scope=ignore_name_scope,
        )
    for i, tensor, (_, context), (_, restore) in zip(
        dense, reduced, compressed, converted, strict=True
    ):
        results[i] = restore(compression.decompress(tensor, context))
    return results


@tf.autograph.experimental.do_not_convert
@_tensor_keyword
def allgather(
    value: Any,
    name: str | None = None,
    *,
    process_set: ProcessSet = global_process_set,
    ignore_name_scope: bool = False,
) -> Any:
    """Concatenate a value of each rank along the first dimension.

    Args:
        value: a tensor, variable or array, whose first dimension may differ by rank; or a
            number, of which all ranks' make one array.
        name: the operation's name on a timeline; the same on all ranks.
        process_set: the ranks that take part.
        ignore_name_scope: leave TensorFlow's name scopes out of the name.

    Returns:
        A tensor or an array with the rows of all ranks, in rank order.
    """
    require_initialized("hvd.allgather()")
    tensor, restore = _to_tensor(value)
    return restore(
        ops.allgather(
            tensor, name=name, process_set=process_set, ignore_name_scope=ignore_name_scope
        )
    )


@tf.autograph.experimental.do_not_convert
def grouped_allgather(
    tensors: Sequence[Any],
    name: str | None = None,
    ignore_name_scope: bool = False,
    process_set: ProcessSet = global_process_set,
) -> list[Any]:
    """`allgather` of several values in one operation; arguments as there."""
    require_initialized("hvd.grouped_allgather()")
    if not tensors:
        return []
    converted = [_to_tensor(value) for value in tensors]
    gathered = ops.grouped_allgather(
        [tensor for tensor, _ in converted],
        name=name,
        process_set=process_set,
        ignore_name_scope=ignore_name_scope,
    )
    return [restore(t) for t, (_, restore) in zip(gathered, converted, strict=True)]


@tf.autograph.experimental.do_not_convert
@_tensor_keyword
def broadcast(
    value: Any,
    root_rank: int,
    name: str | None = None,
    *,
    process_set: ProcessSet = global_process_set,
    ignore_name_scope: bool = False,
) -> Any:
    """The value of one rank, on every rank.

    Args:
        value: a tensor, variable, array or number of one shape and type on all ranks.
        root_rank: the (global) rank whose value counts.
        name: the operation's name on a timeline; the same on all ranks.
        process_set: the ranks that take part.
        ignore_name_scope: leave TensorFlow's name scopes out of the name.

    Returns:
        The root's value, of the kind of `value`.

    Raises:
        ValueError: there is no such rank in the process set.
    """
    require_initialized("hvd.broadcast()")
    tensor, restore = _to_tensor(value)
    return restore(
        ops.broadcast(
            tensor,
            root_rank,
            name=name,
            process_set=process_set,
            ignore_name_scope=ignore_name_scope,
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
        ignore_name_scope: leave TensorFlow's name scopes out of the name.
        process_set: the ranks that take part.

    Returns:
        The received rows in rank order; with `splits`, also how many came from each rank.

    Raises:
        ValueError: the rows do not divide by the ranks, or `splits` does not add up to them.
    """
    require_initialized("hvd.alltoall()")
    topology.require_member(process_set)
    converted, restore = _to_tensor(tensor)
    if converted.shape.rank == 0:
        raise ValueError("alltoall divides the first dimension; a number has none.")
    rows, ranks = converted.shape[0], topology.process_set_size(process_set)
    if splits is None:
        if rows is not None and rows % ranks:
            raise ValueError(f"{rows} rows do not divide by {ranks} ranks: give alltoall splits.")
        return restore(
            ops.alltoall(
                converted,
                name=name,
                ignore_name_scope=ignore_name_scope,
                process_set=process_set,
            )
        )
    counts = tf.cast(tf.convert_to_tensor(splits), tf.int32)
    static = tf.get_static_value(counts)
    if static is not None and rows is not None and (len(static), static.sum()) != (ranks, rows):
        raise ValueError(
            f"splits gives {len(static)} ranks {static.sum()} rows, but there are {ranks} ranks "
            f"and {rows} rows."
        )
    received, received_splits = ops.alltoall(
        converted,
        counts,
        name=name,
        ignore_name_scope=ignore_name_scope,
        process_set=process_set,
    )
    return restore(received), restore(received_splits)


@tf.autograph.experimental.do_not_convert
@_tensor_keyword
def reducescatter(
    value: Any,
    name: str | None = None,
    op: int = Average,
    *,
    device_dense: str = "",
    compression: type[Compressor] = Compression.none,
    process_set: ProcessSet = global_process_set,
    ignore_name_scope: bool = False,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
) -> Any:
    """Combine a value of each rank, and leave each rank its slice of the first dimension.

    Args:
        value: a tensor, variable or array of one shape on all ranks, with a first dimension.
        name: the operation's name on a timeline; the same on all ranks.
        op: `hvd.Average` or `hvd.Sum`.
        device_dense: device for the reduction; "" for the value's own.
        compression: how the value travels.
        process_set: the ranks that take part.
        ignore_name_scope: leave TensorFlow's name scopes out of the name.
        prescale_factor: factor before the reduction.
        postscale_factor: factor after the reduction.

    Returns:
        This rank's slice; where the rows do not divide, the first ranks get one more.
    """
    require_initialized("hvd.reducescatter()")
    tensor, restore = _to_tensor(value)
    if tensor.shape.rank == 0:
        raise ValueError("reducescatter divides the first dimension; a number has none.")
    wire, context = compression.compress(_for_op(tensor, value, op))
    with tf.device(device_dense or None):
        reduced = ops.grouped_reducescatter(
            [wire],
            op,
            name=name,
            prescale=prescale_factor,
            postscale=postscale_factor,
            process_set=process_set,
            ignore_name_scope=ignore_name_scope,
        )[0]
    return restore(compression.decompress(reduced, context))


@tf.autograph.experimental.do_not_convert
def grouped_reducescatter(
    tensors: Sequence[Any],
    device_dense: str = "",
    compression: type[Compressor] = Compression.none,
    op: int = Average,
    process_set: ProcessSet = global_process_set,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
) -> list[Any]:
    """`reducescatter` of several values; arguments as there."""
    return [
        reducescatter(
            value,
            op=op,
            device_dense=device_dense,
            compression=compression,
            process_set=process_set,
            prescale_factor=prescale_factor,
            postscale_factor=postscale_factor,
        )
        for value in tensors
    ]
