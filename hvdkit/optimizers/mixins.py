"""What a distributed optimizer has besides its Keras class: the reduction of its gradients.

Keras applies gradients in this order: accumulate (`gradient_accumulation_steps`), clip, decay
weights, update, average (`use_ema`), constrain. The reduction is the first part of "clip": after
the accumulation, so N micro-steps communicate once, and before everything that has to see the
gradient of the global batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from hvdkit.data.batch_scale import current_scale
from hvdkit.engine import Max, ProcessSet, ops, topology
from hvdkit.exchange.allreduce_gradients import Gradient, GradientReduction
from hvdkit.exchange.sparse import scaled
from hvdkit.mesh.layout import is_sharded, layout_of, set_layout
from hvdkit.mesh.mesh import Mesh
from hvdkit.optimizers.clipping import clip_by_global_norm, clip_by_norm
from hvdkit.optimizers.elementwise import require_elementwise
from hvdkit.optimizers.finite import guards

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
        return [g if g is None else scaled(g, self._hvd_multiplier) for g in reduced]


class DistributedLeaf(Distributed):
    """Mixin of an optimizer that updates variables itself, which is all but two of Keras's."""

    def build(self, variables: Sequence[Any]) -> None:
        """Build the optimizer, unless it can't update what the ranks hold."""
        require_elementwise(self, variables)
        super().build(variables)

    def add_variable_from_reference(
        self, reference_variable: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """A slot lies over the ranks as the variable that it belongs to."""
        slot = super().add_variable_from_reference(reference_variable, *args, **kwargs)
        layout = layout_of(reference_variable)
        if layout is not None:
            set_layout(slot, layout)
        return slot

    @do_not_convert
    def apply(self, grads: Sequence[Gradient], trainable_variables: Any = None) -> None:
        """Reduce the gradients and update the variables; as in Keras otherwise."""
        _refuse_two_kinds_of_replicas(self._hvd_reduction)
        scale = current_scale()
        if scale is not None and not scale.used_for(self):
            grads = [g if g is None else scaled(g, scale.value) for g in grads]
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
                grads[i] = ops.allreduce(
                    grads[i], Max, name="hvdkit_overwritten", process_set=self.process_set
                )
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
        variables, mesh = self._hvd_variables, self._hvd_reduction.options.mesh
        reduced = self._hvd_reduce(grads, variables)
        if mesh is None or not (mesh.pipeline > 1 or any(map(is_sharded, variables))):
            return super()._clip_gradients(reduced)
        if self.clipnorm:
            return clip_by_norm(reduced, variables, self.clipnorm)
        if self.global_clipnorm:
            return clip_by_global_norm(reduced, variables, self.global_clipnorm, mesh)
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


def mesh_of(optimizer: Any) -> Mesh | None:
    """The mesh over which an optimizer's variables lie; None if there is none."""
    found = reductions(optimizer) if optimizer is not None else []
    return found[0].options.mesh if found else None


def _refuse_two_kinds_of_replicas(reduction: GradientReduction) -> None:
    if tf.distribute.get_strategy().num_replicas_in_sync > 1 and reduction.active:
        raise NotImplementedError(
            f"a job of {topology.size()} ranks trains inside a tf.distribute strategy with several "
            "devices. Use one of the two: one rank per device (horovodrun, mpirun), or one "
            "process with tf.distribute.MirroredStrategy; hvd.strategy() picks the right one."
        )
