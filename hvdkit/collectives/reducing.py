"""Collectives that combine the ranks' values: allreduce and reducescatter."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from hvdkit.collectives.orders import in_either_order
from hvdkit.collectives.values import for_op, tensor_keyword, to_tensor
from hvdkit.engine import (
    OP_NAMES,
    Adasum,
    Average,
    ProcessSet,
    Sum,
    global_process_set,
    ops,
    require_initialized,
)
from hvdkit.exchange.compression.casts import Compression, Compressor, codec_of
from hvdkit.exchange.sparse import allreduce_slices, combine_duplicates


@tf.autograph.experimental.do_not_convert
@tensor_keyword
@in_either_order(
    [
        "average",
        "device_dense",
        "device_sparse",
        "compression",
        "op",
        "prescale_factor",
        "postscale_factor",
        "name",
        "process_set",
        "ignore_name_scope",
    ]
)
def allreduce(
    value: Any,
    name: str | None = None,
    average: bool | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    op: int | None = None,
    compression: Compressor = Compression.none,
    *,
    device_dense: str = "",
    device_sparse: str = "",
    process_set: ProcessSet = global_process_set,
    ignore_name_scope: bool = False,
) -> Any:
    """Combine a value of each rank; every rank gets the result.

    Positional arguments may also come in the order of `horovod.tensorflow`: (tensor, average,
    device_dense, device_sparse, compression, op, ...); their types tell.

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
        ignore_name_scope: kept for scripts written for Horovod; names never hold name scopes.

    Returns:
        The result, of the kind of `value`.

    Example:
        >>> hvd.allreduce(1.0, op=hvd.Sum) == hvd.size()
        True
    """
    del ignore_name_scope
    require_initialized("hvd.allreduce()")
    operation = _operation(op, average)
    if operation == Adasum:
        ops.require_adasum(process_set)
    if isinstance(value, tf.IndexedSlices):
        if prescale_factor != 1.0 or postscale_factor != 1.0:
            raise NotImplementedError("tf.IndexedSlices take no prescale or postscale factor.")
        with tf.device(device_sparse or None):
            rows, codec = combine_duplicates(value), codec_of(compression)
            return allreduce_slices(rows, operation, codec, process_set, name or "sparse")
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
        name=name,
    )[0]


@tf.autograph.experimental.do_not_convert
def grouped_allreduce(
    tensors: Sequence[Any],
    average: bool | None = None,
    device_dense: str = "",
    device_sparse: str = "",
    compression: Compressor = Compression.none,
    op: int | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    process_set: ProcessSet = global_process_set,
    ignore_name_scope: bool = False,
    name: str | None = None,
) -> list[Any]:
    """`allreduce` of several values in one operation; arguments as there."""
    del ignore_name_scope
    require_initialized("hvd.grouped_allreduce()")
    operation = _operation(op, average)
    if operation == Adasum:
        ops.require_adasum(process_set)
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
            name=name and f"{name}_{i}",
        )
    dense = [i for i in range(len(tensors)) if i not in slices]
    converted = [to_tensor(tensors[i]) for i in dense]
    compressed = [
        compression.compress(for_op(tensor, tensors[i], operation))
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
        )
    for i, tensor, (_, context), (_, restore) in zip(
        dense, reduced, compressed, converted, strict=True
    ):
        results[i] = restore(compression.decompress(tensor, context))
    return results


@tf.autograph.experimental.do_not_convert
@tensor_keyword
@in_either_order(
    [
        "device_dense",
        "compression",
        "op",
        "name",
        "process_set",
        "ignore_name_scope",
        "prescale_factor",
        "postscale_factor",
    ]
)
def reducescatter(
    value: Any,
    name: str | None = None,
    op: int = Average,
    *,
    device_dense: str = "",
    compression: Compressor = Compression.none,
    process_set: ProcessSet = global_process_set,
    ignore_name_scope: bool = False,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
) -> Any:
    """Combine a value of each rank, and leave each rank its slice of the first dimension.

    Positional arguments may also come in the order of `horovod.tensorflow`: (tensor, device_dense,
    compression, op, name, ...); their types tell.

    Args:
        value: a tensor, variable or array of one shape on all ranks, with a first dimension.
        name: the operation's name on a timeline; the same on all ranks.
        op: `hvd.Average` or `hvd.Sum`.
        device_dense: device for the reduction; "" for the value's own.
        compression: how the value travels.
        process_set: the ranks that take part.
        ignore_name_scope: kept for scripts written for Horovod; names never hold name scopes.
        prescale_factor: factor before the reduction.
        postscale_factor: factor after the reduction.

    Returns:
        This rank's slice; where the rows do not divide, the first ranks get one more.
    """
    del ignore_name_scope
    require_initialized("hvd.reducescatter()")
    tensor, restore = to_tensor(value)
    if tensor.shape.rank == 0:
        raise ValueError("reducescatter divides the first dimension; a number has none.")
    wire, context = compression.compress(for_op(tensor, value, op))
    with tf.device(device_dense or None):
        reduced = ops.grouped_reducescatter(
            [wire],
            op,
            name=name,
            prescale=prescale_factor,
            postscale=postscale_factor,
            process_set=process_set,
        )[0]
    return restore(compression.decompress(reduced, context))


@tf.autograph.experimental.do_not_convert
def grouped_reducescatter(
    tensors: Sequence[Any],
    device_dense: str = "",
    compression: Compressor = Compression.none,
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
