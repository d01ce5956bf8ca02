"""`DistributedOptimizer` and `DistributedGradientTape`, with the arguments that Horovod gave them.

The signatures stay as they are; what is new comes in by `exchange=`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from hvdkit.collectives.orders import in_either_order
from hvdkit.engine import Average, ProcessSet, global_process_set
from hvdkit.exchange.base import Exchange
from hvdkit.exchange.chain import Chain
from hvdkit.exchange.compression.casts import Compressing, Compression
from hvdkit.exchange.options import chosen_exchange, groups_argument
from hvdkit.mesh.mesh import current_mesh
from hvdkit.optimizers.local_layers import local_variables_of
from hvdkit.optimizers.nonfinite_policy import Policy
from hvdkit.optimizers.tape import DistributedTape
from hvdkit.optimizers.wrapping import distribute, plain_optimizer

_ORDER_OF_TENSORFLOW = """
    name use_locking device_dense device_sparse compression sparse_as_dense
    backward_passes_per_step op gradient_predivide_factor average_aggregated_gradients
    num_groups groups process_set scale_local_gradients
"""


@in_either_order(_ORDER_OF_TENSORFLOW.split())
def DistributedOptimizer(
    optimizer: Any,
    name: str | None = None,
    device_dense: str = "",
    device_sparse: str = "",
    compression: Compressing = Compression.none,
    sparse_as_dense: bool = False,
    gradient_predivide_factor: float = 1.0,
    op: int = Average,
    backward_passes_per_step: int = 1,
    average_aggregated_gradients: bool = False,
    num_groups: int = 0,
    groups: int | Sequence[Sequence[Any]] | None = None,
    process_set: ProcessSet = global_process_set,
    scale_local_gradients: bool = True,
    *,
    nonfinite: Policy | None = None,
    exchange: Exchange | None = None,
) -> Any:
    """Make a Keras optimizer average its gradients over all ranks.

    N ranks with batches of B rows then train as one process with batches of N x B rows.

    Positional arguments may also come in the order of `horovod.tensorflow`: (optimizer, name,
    use_locking, device_dense, ...); their types tell.

    Args:
        optimizer: a Keras 3 optimizer, its name ("adam"), or its config. An instance is made
            distributed in place: it keeps its variables and is returned.
        name: prefix of the reductions' names on a timeline.
        device_dense: device for the reduction of dense gradients; "" for the gradient's own.
        device_sparse: device for the reduction of sparse gradients.
        compression: how gradients travel: `hvd.Compression.none`, `fp16` or `bf16`; or anything
            with `compress` and `decompress`, such as Horovod's compressors and one's own.
        sparse_as_dense: reduce the gradients of embeddings as dense tensors. The steps are the same
            either way: rows of one id are added up first, which Keras's own optimizers omit.
        gradient_predivide_factor: with `hvd.Average`, divide by this before the sum and by
            size / factor after it.
        op: `hvd.Average`, `hvd.Sum` or `hvd.Adasum`; see `hvd.exchange.AllReduce`.
        backward_passes_per_step: accumulate the gradients of this many steps on each rank, then
            reduce and apply them. It is Keras's `gradient_accumulation_steps`.
        average_aggregated_gradients: average the accumulated gradients instead of summing them,
            as Keras's `gradient_accumulation_steps` does.
        num_groups: Horovod's old name of `groups`.
        groups: None to reduce in buckets, in the order of the backward pass; a number of groups;
            or lists of variables to be reduced together.
        process_set: the ranks to reduce over. With a mesh (`hvd.set_mesh`), its `data_set`.
        scale_local_gradients: divide the gradients of variables registered with
            `register_local_var` by the number of ranks.
        nonfinite: what happens when gradients hold NaN or Inf: `hvd.nonfinite.Skip()`, `Stop()`
            or `Restore()`; None to apply them, as Keras does. A `LossScaleOptimizer` looks
            for itself before that.
        exchange: how the ranks stay together, such as `hvd.exchange.AllReduce(...)`; None for that
            one with the arguments here: `device_dense`, `device_sparse`, `compression`,
            `gradient_predivide_factor`, `op`, `groups`, `process_set`. The others go with any.

    Returns:
        The optimizer, an instance of its own class still, with `register_local_var(var)`.

    Raises:
        TypeError: `optimizer` is not a Keras 3 optimizer, or `exchange` no exchange.
        ValueError: an argument is out of range, the optimizer is distributed already, or both an
            exchange and arguments of the default one are given.

    Example:
        >>> optimizer = hvd.DistributedOptimizer(keras.optimizers.Adam(1e-3 * hvd.size()))
        >>> model.compile(optimizer=optimizer, loss="mse")
    """
    optimizer = plain_optimizer(optimizer)
    chosen = chosen_exchange(
        exchange,
        op=op,
        compression=compression,
        gradient_predivide_factor=gradient_predivide_factor,
        groups=groups_argument(num_groups, groups),
        process_set=process_set,
        device_dense=device_dense,
        device_sparse=device_sparse,
    )
    chain = Chain(chosen, current_mesh(), sparse_as_dense, scale_local_gradients)
    return distribute(
        optimizer,
        chain,
        name=name,
        passes=backward_passes_per_step,
        average=average_aggregated_gradients,
        nonfinite=nonfinite,
    )


def PartialDistributedOptimizer(
    optimizer: Any,
    name: str | None = None,
    device_dense: str = "",
    device_sparse: str = "",
    compression: Compressing = Compression.none,
    sparse_as_dense: bool = False,
    gradient_predivide_factor: float = 1.0,
    op: int = Average,
    groups: int | Sequence[Sequence[Any]] | None = None,
    process_set: ProcessSet = global_process_set,
    local_layers: Any = None,
    scale_local_gradients: bool = True,
    *,
    backward_passes_per_step: int = 1,
    average_aggregated_gradients: bool = False,
    nonfinite: Policy | None = None,
    exchange: Exchange | None = None,
) -> Any:
    """`DistributedOptimizer` that leaves the gradients of some layers on their rank.

    Args:
        optimizer: as in `DistributedOptimizer`, as all arguments but the two below.
        name: see `DistributedOptimizer`.
        device_dense: see `DistributedOptimizer`.
        device_sparse: see `DistributedOptimizer`.
        compression: see `DistributedOptimizer`.
        sparse_as_dense: see `DistributedOptimizer`.
        gradient_predivide_factor: see `DistributedOptimizer`.
        op: see `DistributedOptimizer`.
        groups: see `DistributedOptimizer`.
        process_set: see `DistributedOptimizer`.
        local_layers: a built `keras.Layer`, or a list of them, that each rank trains by itself.
        scale_local_gradients: divide their gradients by the number of ranks.
        backward_passes_per_step: see `DistributedOptimizer`.
        average_aggregated_gradients: see `DistributedOptimizer`.
        nonfinite: see `DistributedOptimizer`.
        exchange: see `DistributedOptimizer`.

    Raises:
        ValueError: `local_layers` holds something else than built Keras layers.
    """
    variables = local_variables_of(local_layers)
    distributed = DistributedOptimizer(
        optimizer,
        name=name,
        device_dense=device_dense,
        device_sparse=device_sparse,
        compression=compression,
        sparse_as_dense=sparse_as_dense,
        gradient_predivide_factor=gradient_predivide_factor,
        op=op,
        backward_passes_per_step=backward_passes_per_step,
        average_aggregated_gradients=average_aggregated_gradients,
        groups=groups,
        process_set=process_set,
        scale_local_gradients=scale_local_gradients,
        nonfinite=nonfinite,
        exchange=exchange,
    )
    for variable in variables:
        distributed.register_local_var(variable)
    return distributed


def DistributedGradientTape(
    gradtape: tf.GradientTape,
    device_dense: str = "",
    device_sparse: str = "",
    compression: Compressing = Compression.none,
    sparse_as_dense: bool = False,
    op: int = Average,
    gradient_predivide_factor: float = 1.0,
    num_groups: int = 0,
    groups: int | Sequence[Sequence[Any]] | None = None,
    process_set: ProcessSet = global_process_set,
    scale_local_gradients: bool = True,
    *,
    exchange: Exchange | None = None,
) -> Any:
    """Wrap a `tf.GradientTape` so that `gradient` returns the average over all ranks.

    Args:
        gradtape: the tape, before or after it has recorded.
        device_dense: device for the reduction of dense gradients; "" for the gradient's own.
        device_sparse: device for the reduction of sparse gradients.
        compression: how gradients travel: `hvd.Compression.none`, `fp16` or `bf16`.
        sparse_as_dense: reduce the gradients of embeddings as dense tensors.
        op: `hvd.Average`, `hvd.Sum` or `hvd.Adasum`; see `hvd.exchange.AllReduce`.
        gradient_predivide_factor: with `hvd.Average`, divide by this before the sum and by
            size / factor after it.
        num_groups: Horovod's old name of `groups`.
        groups: None for buckets in the order of the backward pass, a number of groups, or lists
            of variables to be reduced together.
        process_set: the ranks to reduce over. With a mesh (`hvd.set_mesh`), its `data_set`.
        scale_local_gradients: divide the gradients of local sources by the number of ranks.
        exchange: how gradients are exchanged; see `DistributedOptimizer`.

    Raises:
        TypeError: `exchange` is no exchange.
        ValueError: both an exchange and arguments of the default one are given; or the exchange
            works on weights, or has variables of its own, so that it belongs to an optimizer.

    Example:
        >>> with tf.GradientTape() as tape:
        ...     loss = loss_fn(y, model(x, training=True))
        >>> tape = hvd.DistributedGradientTape(tape)
        >>> gradients = tape.gradient(loss, model.trainable_variables)
        >>> optimizer.apply_gradients(zip(gradients, model.trainable_variables))
    """
    chosen = chosen_exchange(
        exchange,
        op=op,
        compression=compression,
        gradient_predivide_factor=gradient_predivide_factor,
        groups=groups_argument(num_groups, groups),
        process_set=process_set,
        device_dense=device_dense,
        device_sparse=device_sparse,
    )
    return DistributedTape(gradtape, chosen, sparse_as_dense, scale_local_gradients)


def PartialDistributedGradientTape(
    gradtape: tf.GradientTape,
    device_dense: str = "",
    device_sparse: str = "",
    compression: Compressing = Compression.none,
    sparse_as_dense: bool = False,
    op: int = Average,
    gradient_predivide_factor: float = 1.0,
    num_groups: int = 0,
    groups: int | Sequence[Sequence[Any]] | None = None,
    process_set: ProcessSet = global_process_set,
    local_layers: Any = None,
    scale_local_gradients: bool = True,
    *,
    exchange: Exchange | None = None,
) -> Any:
    """`DistributedGradientTape` that leaves the gradients of some layers on their rank.

    Args:
        gradtape: as in `DistributedGradientTape`, as all arguments but `local_layers`.
        device_dense: see `DistributedGradientTape`.
        device_sparse: see `DistributedGradientTape`.
        compression: see `DistributedGradientTape`.
        sparse_as_dense: see `DistributedGradientTape`.
        op: see `DistributedGradientTape`.
        gradient_predivide_factor: see `DistributedGradientTape`.
        num_groups: see `DistributedGradientTape`.
        groups: see `DistributedGradientTape`.
        process_set: see `DistributedGradientTape`.
        local_layers: a built `keras.Layer`, or a list of them, that each rank trains by itself.
        scale_local_gradients: divide their gradients by the number of ranks.
        exchange: see `DistributedGradientTape`.

    Raises:
        ValueError: `local_layers` holds something else than built Keras layers.
    """
    tape = DistributedGradientTape(
        gradtape,
        device_dense,
        device_sparse,
        compression,
        sparse_as_dense,
        op,
        gradient_predivide_factor,
        num_groups,
        groups,
        process_set,
        scale_local_gradients,
        exchange=exchange,
    )
    for variable in local_variables_of(local_layers):
        tape.register_local_source(variable)
    return tape
