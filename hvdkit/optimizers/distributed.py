"""DistributedOptimizer: any Keras optimizer, whose gradients are reduced over ranks.

The optimizer becomes an instance of a subclass of its own class: it keeps its variables and
settings, and since the subclass has the base class's name and module, a `.keras` file saved with
it names the plain Keras class and loads where hvdkit is not installed.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import keras
from keras.src import api_export
from keras.src.saving import object_registration

from hvdkit.collectives.orders import in_either_order
from hvdkit.engine import Average, ProcessSet, global_process_set, logger
from hvdkit.engine.versions import is_keras2_optimizer
from hvdkit.exchange.allreduce_gradients import GradientReduction, ReductionOptions, groups_argument
from hvdkit.exchange.compression.casts import Compression, Compressor
from hvdkit.mesh.layout import is_sharded
from hvdkit.mesh.mesh import current_mesh, over_replicas
from hvdkit.optimizers.finite import FiniteGuard, Guarded
from hvdkit.optimizers.mixins import (
    Distributed,
    DistributedComposite,
    DistributedLeaf,
    inner_optimizers,
    is_composite,
    is_distributed,
    leaves,
)
from hvdkit.optimizers.nonfinite_policy import Policy


@in_either_order(
    [
        "name",
        "use_locking",
        "device_dense",
        "device_sparse",
        "compression",
        "sparse_as_dense",
        "backward_passes_per_step",
        "op",
        "gradient_predivide_factor",
        "average_aggregated_gradients",
        "num_groups",
        "groups",
        "process_set",
        "scale_local_gradients",
    ]
)
def DistributedOptimizer(
    optimizer: Any,
    name: str | None = None,
    device_dense: str = "",
    device_sparse: str = "",
    compression: Compressor = Compression.none,
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
        op: `hvd.Average` or `hvd.Sum`.
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

    Returns:
        The optimizer, an instance of its own class still, with `register_local_var(var)`.

    Raises:
        TypeError: `optimizer` is not a Keras 3 optimizer.
        ValueError: an argument is out of range, or the optimizer is distributed already.

    Example:
        >>> optimizer = hvd.DistributedOptimizer(keras.optimizers.Adam(1e-3 * hvd.size()))
        >>> model.compile(optimizer=optimizer, loss="mse")
    """
    optimizer = _keras_optimizer(optimizer)
    if is_distributed(optimizer):
        raise ValueError(f"this {type(optimizer).__name__} optimizer is distributed already.")
    options = ReductionOptions(
        op=op,
        compression=compression,
        sparse_as_dense=sparse_as_dense,
        gradient_predivide_factor=gradient_predivide_factor,
        groups=groups_argument(num_groups, groups),
        process_set=over_replicas(process_set),
        scale_local_gradients=scale_local_gradients,
        device_dense=device_dense,
        device_sparse=device_sparse,
        mesh=current_mesh(),
    )
    reduction = GradientReduction(options)
    multiplier = _accumulate(optimizer, backward_passes_per_step, average_aggregated_gradients)
    prefix = _scope_name(name or f"Distributed{type(optimizer).__name__}")

    leaf_mixins = (DistributedLeaf,) if nonfinite is None else (DistributedLeaf, Guarded)

    def make_distributed(one: Any) -> None:
        if isinstance(one, Distributed):
            return
        _require_marked_slots(one)
        mixins = (DistributedComposite,) if is_composite(one) else leaf_mixins
        one.__class__ = _distributed_class(mixins, one.__class__)
        state = vars(one)
        if Guarded in mixins and nonfinite is not None:
            state["_hvd_guard"] = FiniteGuard(nonfinite)
        state["_hvd_reduction"] = reduction
        state["_hvd_name"] = prefix
        state["_hvd_multiplier"] = multiplier
        state["_hvd_variables"] = []
        state["_hvd_make_distributed"] = make_distributed
        for inner in inner_optimizers(one):
            make_distributed(inner)

    make_distributed(optimizer)
    return optimizer


@functools.cache
def _distributed_class(mixins: tuple[type, ...], base: type) -> type:
    """The subclass that a distributed optimizer is an instance of; it is saved as its base.

    Optimizers become instances of it, and none is made of it: `type(optimizer)(...)`, and so
    `from_config`, copies and pickles make one of the base class, which can be used, or made
    distributed in turn.
    """

    def new(_: type, *args: Any, **kwargs: Any) -> Any:
        return base(*args, **kwargs)

    def reduced(self: Any) -> tuple[Any, ...]:
        plain: Any = base
        function, *rest = plain.__reduce__(self)
        return (getattr(base, function.__name__), *rest)  # a method of the class, in Keras

    attributes = {
        "__module__": base.__module__,
        "__doc__": base.__doc__,
        "__new__": new,
        "__reduce__": reduced,
    }
    distributed = type(base.__name__, (*mixins, base), attributes)
    public_name = api_export.get_name_from_symbol(base)
    if public_name is not None:
        api_export.REGISTERED_OBJS_TO_NAMES[distributed] = public_name
    else:
        registered = object_registration.get_registered_name(base)
        object_registration.GLOBAL_CUSTOM_NAMES[distributed] = registered
    return distributed


def _keras_optimizer(optimizer: Any) -> Any:
    if is_keras2_optimizer(optimizer):
        raise TypeError(
            f"{type(optimizer).__module__}.{type(optimizer).__name__} is an optimizer of Keras 2 "
            "or TensorFlow 1; use the one of the same name in keras.optimizers (Keras 3)."
        )
    if isinstance(optimizer, (str, dict)):
        return keras.optimizers.get(optimizer)
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise TypeError(
            "DistributedOptimizer takes a Keras 3 optimizer, its name or its config, not "
            f"{type(optimizer).__module__}.{type(optimizer).__name__}."
        )
    return optimizer


def _require_marked_slots(optimizer: Any) -> None:
    """Refuse an optimizer whose slots were made before anybody noted how they lie over ranks."""
    if optimizer.built and any(map(is_sharded, optimizer._trainable_variables)):
        raise ValueError(
            "the optimizer has been built for variables that are divided over ranks: wrap it with "
            "hvd.DistributedOptimizer before that, when it is made."
        )


def _accumulate(optimizer: Any, passes: int, average: bool) -> float:
    """Turn on Keras's accumulation; returns the factor that makes its average a sum."""
    if not isinstance(passes, int) or passes < 1:
        raise ValueError(f"backward_passes_per_step is an integer above 0, not {passes!r}.")
    if passes == 1:
        return 1.0
    for leaf in leaves(optimizer):
        if leaf.gradient_accumulation_steps not in (None, passes):
            raise ValueError(
                f"the optimizer has gradient_accumulation_steps="
                f"{leaf.gradient_accumulation_steps}, which hvdkit honours; it contradicts "
                f"backward_passes_per_step={passes}. Set one of the two."
            )
        if leaf.gradient_accumulation_steps is None and leaf.built:
            raise ValueError(
                "backward_passes_per_step needs an optimizer that has not been built yet: "
                "wrap it before the first step, or give it gradient_accumulation_steps itself."
            )
        leaf.gradient_accumulation_steps = passes
    if average:
        return 1.0
    logger.info(
        "hvdkit: backward_passes_per_step=%d sums the gradients of the %d steps, as in Horovod; "
        "average_aggregated_gradients=True averages them.",
        passes,
        passes,
    )
    return float(passes)


def _scope_name(name: str) -> str:
    """A name that TensorFlow accepts as a scope."""
    return "".join(c if c.isalnum() or c in "_.-" else "_" for c in name).lstrip("_.-") or "hvdkit"
