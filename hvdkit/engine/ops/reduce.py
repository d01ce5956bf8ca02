"""Collectives that combine what the ranks give: allreduce and reduce-scatter.

Horovod's know neither bool, most of the integers, nor bfloat16, and the average of its small
integers overflows. Integers travel as int64 or int32; bfloat16 is reduced by an exchange of its
bits (`bfloat16.py`), so it really halves the bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from hvdkit.engine.error_messages import explained
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
from hvdkit.engine.ops.bfloat16 import allreduce_bfloat16
from hvdkit.engine.ops.by_dtype import by_type, described
from hvdkit.engine.ops.graphs import differentiable, named, not_constant
from hvdkit.engine.topology import mpi_enabled, ranks_when_run, require_member, size

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


def require_adasum(process_set: ProcessSet = global_process_set) -> None:
    """Refuse ranks that Horovod's Adasum does not work over.

    Raises:
        NotImplementedError: on every rank: it says which it does.
    """
    if not mpi_enabled():
        raise NotImplementedError("hvd.Adasum needs MPI; start the job with mpirun.")
    if process_set.process_set_id != 0:
        raise NotImplementedError("hvd.Adasum works over all ranks, not over a process set.")
    ranks = size()
    if ranks & (ranks - 1):
        raise NotImplementedError(f"hvd.Adasum needs a power of 2 of ranks, not {ranks}.")


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
) -> tf.Tensor:
    """Reduce `tensor` over the ranks of `process_set`; every rank gets the result.

    Args:
        tensor: of one shape and type on all ranks.
        op: `Average`, `Sum`, `Adasum`, `Min`, `Max` or `Product`.
        name: what the operation is called between ranks; the same on all of them.
        prescale: factor before the reduction.
        postscale: factor after the reduction.
        process_set: the ranks that take part.

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
    )[0]


def grouped_allreduce(
    tensors: Sequence[tf.Tensor],
    op: int = Average,
    *,
    name: str | None = None,
    prescale: float = 1.0,
    postscale: float = 1.0,
    process_set: ProcessSet = global_process_set,
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

    def reduce_one_type(members: list[tf.Tensor], own_name: str) -> list[tf.Tensor]:
        if members[0].dtype == tf.bfloat16 and op not in (Average, Sum):
            raise TypeError("bfloat16 tensors can be averaged and summed, nothing else.")
        reduce = allreduce_bfloat16 if members[0].dtype == tf.bfloat16 else _reduce_natively
        what, detail = described("allreduce", name), f"with hvd.{OP_NAMES[op]}"
        with explained(what, members, detail, process_set) as outputs:
            outputs += reduce(
                members,
                op,
                name=own_name,
                prescale=prescale,
                postscale=postscale,
                process_set=process_set,
            )
        return outputs

    reduced = by_type(travelling, name or "allreduce", reduce_one_type)
    return [
        tf.cast(result, tensor.dtype) if result.dtype != tensor.dtype else result
        for result, tensor in zip(reduced, tensors, strict=True)
    ]


def _reduce_natively(
    tensors: list[tf.Tensor],
    op: int,
    *,
    name: str,
    prescale: float,
    postscale: float,
    process_set: ProcessSet,
) -> list[tf.Tensor]:
    def reduce(*values: tf.Tensor) -> list[tf.Tensor]:
        anchored = [not_constant(value) for value in values]
        with named(name) as operation:
            options = {
                **operation,
                "reduce_op": op,
                "prescale_factor": prescale,
                "postscale_factor": postscale,
                "process_set_id": process_set.process_set_id,
            }
            if len(anchored) == 1:
                return [library.horovod_allreduce(anchored[0], **options)]
            return list(library.horovod_grouped_allreduce(anchored, **options))

    def gradient(*upstream: tf.Tensor) -> list[tf.Tensor]:
        return grouped_allreduce(
            upstream,
            op,
            name=f"{name}_gradient",
            prescale=prescale,
            postscale=postscale,
            process_set=process_set,
        )

    return differentiable(reduce, gradient, tensors)


def grouped_reducescatter(
    tensors: Sequence[tf.Tensor],
    op: int = Average,
    *,
    name: str | None = None,
    prescale: float = 1.0,
    postscale: float = 1.0,
    process_set: ProcessSet = global_process_set,
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
        own_name = name or "reducescatter"
        with explained(
            described("reducescatter", name), [tensor], f"with hvd.{OP_NAMES[op]}", process_set
        ) as outputs:
            outputs += _scatter_natively(
                wire,
                op,
                name=f"{own_name}_{i}" if len(tensors) > 1 else own_name,
                prescale=prescale,
                postscale=postscale,
                process_set=process_set,
            )
        results.append(tf.cast(outputs[0], tensor.dtype))
    return results


def _scatter_natively(
    tensor: tf.Tensor,
    op: int,
    *,
    name: str,
    prescale: float,
    postscale: float,
    process_set: ProcessSet,
) -> list[tf.Tensor]:
    def scatter(value: tf.Tensor) -> list[tf.Tensor]:
        value = not_constant(value)
        with named(name) as operation:
            slice_ = mpi_ops._reducescatter(
                value,
                op=op,
                prescale_factor=prescale,
                postscale_factor=postscale,
                process_set=process_set,
                **operation,
            )
        return [slice_]

    def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
        # As Horovod has it: an allgather after this is an allreduce, and so are the gradients.
        factor = tf.cast(prescale * postscale, upstream.dtype)
        if op == Sum:
            factor *= tf.cast(ranks_when_run(process_set), upstream.dtype)
        with explained("the gradient of a reducescatter", [upstream], "", process_set) as outputs:
            value = not_constant(upstream * factor)
            with named(f"{name}_gradient") as operation:
                outputs.append(mpi_ops.allgather(value, process_set=process_set, **operation))
        return outputs

    return differentiable(scatter, gradient, [tensor])
