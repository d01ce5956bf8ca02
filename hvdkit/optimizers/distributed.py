"""DistributedOptimizer: any Keras optimizer, whose gradients are reduced over ranks.

The optimizer becomes an instance of a subclass of its own class: it keeps its variables and
settings, and since the subclass has the base class's name and module, a `.keras` file saved with
it names the plain Keras class and loads where hvdkit is not installed.

Keras applies gradients in this order: accumulate (`gradient_accumulation_steps`), clip, decay
weights, update, average (`use_ema`), constrain. The reduction is the first part of "clip": after
the accumulation, so N micro-steps communicate once, and before everything that has to see the
gradient of the global batch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras.src import api_export
from keras.src.saving import object_registration

from hvdkit.engine import Average, Max, ProcessSet, global_process_set, logger, ops, topology
from hvdkit.engine.versions import is_keras2_optimizer
from hvdkit.nonfinite import Policy
from hvdkit.optimizers.batch_scale import current_scale
from hvdkit.optimizers.finite import FiniteGuard, Guarded, guards
from hvdkit.reduction.compression import Compression, Compressor
from hvdkit.reduction.gradients import (
    Gradient,
    GradientReduction,
    ReductionOptions,
    groups_argument,
)

# AutoGraph rewrites what a user's tf.function calls, and fails on super().
do_not_convert = tf.autograph.experimental.do_not_convert

# Older versions of Keras 3 have none; then nothing is an instance of it.
_MULTI_OPTIMIZER = getattr(keras.optimizers, "MultiOptimizer", ())


class Distributed(keras.optimizers.Optimizer):
    """Mixin of a distributed optimizer: what it adds to the Keras optimizer's class."""

    _hvd_reduction: GradientReduction
    _hvd_name: str
    _hvd_multiplier: float
    _hvd_variables: list[Any]

    def register_local_var(self, var: Any) -> None:
        """Leave a variable's gradient out of the reduction; each rank keeps its own.

        Args:
            var: a `keras.Variable` or `tf.Variable`.
        """
        self._hvd_reduction.register_local(var)

    def is_local_var(self, var: Any) -> bool:
        """Whether a variable was registered with `register_local_var`."""
        return self._hvd_reduction.is_local(var)

    @property
    def process_set(self) -> ProcessSet:
        """The ranks that the gradients are reduced over."""
        return self._hvd_reduction.options.process_set

    @do_not_convert
    def scale_loss(self, loss: tf.Tensor) -> tf.Tensor:
        """Scale the loss as Keras does, and by the weight of a short batch of sharded data."""
        loss = super().scale_loss(loss)
        scale = current_scale()
        return loss if scale is None else scale.scaled(loss, leaves(self))

    @property
    def nonfinite_steps(self) -> int:
        """Steps left out so far because gradients held NaN or Inf; 0 without a policy."""
        return sum(guard.skipped for guard in guards(self))

    def react_to_nonfinite(self) -> None:
        """Let the policy act on steps left out since the last call; `fit` does it by itself."""
        for guard in guards(self):
            guard.react()

    def _hvd_reduce(
        self, gradients: Sequence[Gradient], variables: Sequence[Any]
    ) -> list[Gradient]:
        reduced = self._hvd_reduction.reduce(gradients, variables, name=self._hvd_name)
        if self._hvd_multiplier == 1.0:
            return reduced
        return [g if g is None else _scaled(g, self._hvd_multiplier) for g in reduced]


class DistributedLeaf(Distributed):
    """Mixin of an optimizer that updates variables itself, which is all but two of Keras's."""

    @do_not_convert
    def apply(self, grads: Sequence[Gradient], trainable_variables: Any = None) -> None:
        """Reduce the gradients and update the variables; as in Keras otherwise."""
        _refuse_two_kinds_of_replicas(self._hvd_reduction)
        scale = current_scale()
        if scale is not None and not scale.used_for(self):
            grads = [g if g is None else _scaled(g, scale.value) for g in grads]
        super().apply(grads, trainable_variables)

    def _overwrite_variables_directly_with_gradients(
        self, grads: Sequence[Gradient], variables: Sequence[Any]
    ) -> Any:
        # float8's scales and maxima arrive as gradients; over the global batch a maximum is
        # the maximum over ranks.
        replaced = [i for i, v in enumerate(variables) if self._overwrite_variable_with_gradient(v)]
        if replaced and self._hvd_reduction.active:
            grads = list(grads)
            for i in replaced:
                grads[i] = ops.allreduce(grads[i], Max, process_set=self.process_set)
        return super()._overwrite_variables_directly_with_gradients(grads, variables)

    def _backend_apply_gradients(
        self, grads: Sequence[Gradient], trainable_variables: Sequence[Any]
    ) -> None:
        # Past Keras's attribute tracking, which would take them for the optimizer's own.
        self.__dict__["_hvd_variables"] = list(trainable_variables)
        try:
            super()._backend_apply_gradients(grads, trainable_variables)
        finally:
            self.__dict__["_hvd_variables"] = []

    def _clip_gradients(self, grads: Sequence[Gradient]) -> Any:
        reduced = self._hvd_reduce(grads, self._hvd_variables)
        return super()._clip_gradients(reduced)


class DistributedComposite(Distributed):
    """Mixin of an optimizer that hands the gradients to others: loss scaling, `MultiOptimizer`.

    The others reduce. Those that `MultiOptimizer` finds only when it is built are made
    distributed then.
    """

    _hvd_make_distributed: Callable[[Any], None]

    def build(self, variables: Sequence[Any]) -> None:
        """Build the optimizer and the ones it hands gradients to."""
        super().build(variables)
        for inner in inner_optimizers(self):
            self._hvd_make_distributed(inner)


def inner_optimizers(optimizer: Any) -> list[Any]:
    """The optimizers that `optimizer` hands its gradients to; none for most."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return [optimizer.inner_optimizer]
    if isinstance(optimizer, _MULTI_OPTIMIZER):
        return list(optimizer.optimizers)
    return []


def is_composite(optimizer: Any) -> bool:
    """Whether `optimizer` hands its gradients to other optimizers."""
    return isinstance(optimizer, (keras.optimizers.LossScaleOptimizer, _MULTI_OPTIMIZER))


def leaves(optimizer: Any) -> list[Any]:
    """The optimizers that update variables: `optimizer` itself, or those inside it."""
    if not is_composite(optimizer):
        return [optimizer]
    return [leaf for inner in inner_optimizers(optimizer) for leaf in leaves(inner)]


def is_distributed(optimizer: Any) -> bool:
    """Whether the gradients given to `optimizer` are reduced over ranks."""
    return isinstance(optimizer, Distributed) or any(
        is_distributed(inner) for inner in inner_optimizers(optimizer)
    )


def reductions(optimizer: Any) -> list[GradientReduction]:
    """The reductions behind an optimizer: several for a `MultiOptimizer`."""
    found = [optimizer._hvd_reduction] if isinstance(optimizer, DistributedLeaf) else []
    return found + [r for inner in inner_optimizers(optimizer) for r in reductions(inner)]


def DistributedOptimizer(
    optimizer: Any,
    name: str | None = None,
    device_dense: str = "",
    device_sparse: str = "",
    compression: type[Compressor] = Compression.none,
    sparse_as_dense: bool = False,
    gradient_predivide_factor: float = 1.0,
    op: int = Average,
    backward_passes_per_step: int = 1,
    average_aggregated_gradients: bool = False,
    num_groups: int = 0,
    groups: int | Sequence[Sequence[Any]] | None = None,
    process_set: ProcessSet = global_process_set,
    scale_local_gradients: bool = True,
    nonfinite: Policy | None = None,
) -> Any:
    """Make a Keras optimizer average its gradients over all ranks.

    N ranks with batches of B rows then train as one process with batches of N x B rows.

    Args:
        optimizer: a Keras 3 optimizer, its name ("adam"), or its config. An instance is made
            distributed in place: it keeps its variables and is returned.
        name: prefix of the reductions' names on a timeline.
        device_dense: device for the reduction of dense gradients; "" for the gradient's own.
        device_sparse: device for the reduction of sparse gradients.
        compression: how gradients travel: `hvd.Compression.none`, `fp16` or `bf16`.
        sparse_as_dense: reduce the gradients of embeddings as dense tensors.
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
        process_set: the ranks to reduce over.
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
        process_set=process_set,
        scale_local_gradients=scale_local_gradients,
        device_dense=device_dense,
        device_sparse=device_sparse,
    )
    reduction = GradientReduction(options)
    multiplier = _accumulate(optimizer, backward_passes_per_step, average_aggregated_gradients)
    prefix = _scope_name(name or f"Distributed{type(optimizer).__name__}")

    leaf_mixins = (DistributedLeaf,) if nonfinite is None else (DistributedLeaf, Guarded)

    def make_distributed(one: Any) -> None:
        if isinstance(one, Distributed):
            return
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
    """The subclass that a distributed optimizer is an instance of; it is saved as its base."""
    attributes = {"__module__": base.__module__, "__doc__": base.__doc__}
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


def _scaled(gradient: tf.Tensor | tf.IndexedSlices, factor: Any) -> tf.Tensor | tf.IndexedSlices:
    if isinstance(gradient, tf.IndexedSlices):
        values = gradient.values * tf.cast(factor, gradient.values.dtype)
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return gradient * tf.cast(factor, gradient.dtype)


def _refuse_two_kinds_of_replicas(reduction: GradientReduction) -> None:
    if tf.distribute.get_strategy().num_replicas_in_sync > 1 and reduction.active:
        raise NotImplementedError(
            f"a job of {topology.size()} ranks trains inside a tf.distribute strategy with several "
            "devices. Use one of the two: one rank per device (horovodrun, mpirun), or one "
            "process with tf.distribute.MirroredStrategy; hvd.strategy() picks the right one."
        )
