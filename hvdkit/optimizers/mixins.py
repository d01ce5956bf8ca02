"""What a distributed optimizer has besides its Keras class: the exchange with other ranks.

Keras applies gradients in this order: accumulate (`gradient_accumulation_steps`), clip, decay
weights, update, average (`use_ema`), constrain. Gradients are exchanged in the first part of
"clip": after the accumulation, so N micro-steps communicate once, and before everything that has to
see the gradient of the global batch. Weights are brought together in the last part of "update".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from hvdkit.data.batch_scale import current_scale
from hvdkit.engine import Max, ProcessSet, ops
from hvdkit.engine.local_replicas import once, scope_of
from hvdkit.exchange.abilities import Divides
from hvdkit.exchange.gradient import Gradient, scaled
from hvdkit.mesh.layout import layout_of, set_layout
from hvdkit.optimizers.composition import Attached, inner_optimizers, leaves
from hvdkit.optimizers.elementwise import require_elementwise, updates_by_element
from hvdkit.optimizers.finite import Guarded, exchanged_finite, guards
from hvdkit.optimizers.on_local_replicas import sums_first

# AutoGraph rewrites what a user's tf.function calls, and fails on super().
do_not_convert = tf.autograph.experimental.do_not_convert


class Distributed(keras.optimizers.Optimizer):
    """Mixin of a distributed optimizer: what it adds to the Keras optimizer's class."""

    _hvd: Attached

    def register_local_var(self, var: Any) -> None:
        """Leave a variable out of the exchange; each rank keeps its own.

        Before the optimizer is built, where its exchange keeps something for each variable.

        Args:
            var: a `keras.Variable` or `tf.Variable`.
        """
        self._hvd.chain.register_local(var)

    def is_local_var(self, var: Any) -> bool:
        """Whether a variable was registered with `register_local_var`."""
        return self._hvd.chain.is_local(var)

    @property
    def process_set(self) -> ProcessSet:
        """The ranks that the gradients are exchanged between."""
        return self._hvd.chain.ranks

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


class DistributedLeaf(Distributed):
    """Mixin of an optimizer that updates variables itself, which is all but two of Keras's."""

    def build(self, variables: Sequence[Any]) -> None:
        """Build the exchange and the optimizer, unless it can't update what the ranks hold."""
        require_elementwise(self, variables)
        with scope_of(self._distribution_strategy):
            if not self.built:
                self._hvd_build_exchange(variables)
            super().build(variables)

    def _hvd_build_exchange(self, variables: Sequence[Any]) -> None:
        chain = self._hvd.chain
        shared = chain.shared(variables)
        if isinstance(chain.exchange, Divides) and not updates_by_element(self):
            chain.exchange.keep_unsharded(shared)
        self._hvd.accumulates_exchanged = bool(
            chain.every_micro_step and self.gradient_accumulation_steps
        )
        with tf.init_scope():
            self._hvd.tracked = list(chain.exchange.build(shared))

    def add_variable_from_reference(
        self, reference_variable: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """A slot lies over the ranks as the variable that it belongs to."""
        slot = super().add_variable_from_reference(reference_variable, *args, **kwargs)
        layout = layout_of(reference_variable)
        # A slot of a shard of it that an exchange keeps has another one, or none.
        if layout is not None and slot is not None and slot.shape == reference_variable.shape:
            set_layout(slot, layout)
        return slot

    @do_not_convert
    def apply(self, grads: Sequence[Gradient], trainable_variables: Any = None) -> None:
        """Exchange the gradients and update the variables; as in Keras otherwise."""
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
        if replaced and sums_first(self._hvd.chain):
            raise NotImplementedError(
                f"{variables[replaced[0]].path} is overwritten with its gradient (float8), which "
                "several local devices (MirroredStrategy) would add up: use one rank for each "
                "device (horovodrun, mpirun) instead."
            )
        if replaced and self._hvd.chain.active:
            grads = list(grads)
            for i in replaced:
                grads[i] = ops.allreduce(
                    grads[i], Max, name="hvdkit_overwritten", process_set=self.process_set
                )
        return super()._overwrite_variables_directly_with_gradients(grads, variables)

    def _backend_apply_gradients(
        self, grads: Sequence[Gradient], trainable_variables: Sequence[Any]
    ) -> None:
        self._hvd.variables = list(trainable_variables)
        if self._hvd.accumulates_exchanged:
            grads = self._hvd_exchanged(grads, self._hvd.variables)
        try:
            super()._backend_apply_gradients(grads, trainable_variables)
        finally:
            self._hvd.variables = []

    def _clip_gradients(self, grads: Sequence[Gradient]) -> Any:
        variables = self._hvd.variables

        def received(own: list[Gradient]) -> list[Gradient]:
            return self._hvd_received(own, variables)

        grads = list(grads)
        once_for_all = sums_first(self._hvd.chain)
        return super()._clip_gradients(once(received, grads) if once_for_all else received(grads))

    def _hvd_received(self, grads: Sequence[Gradient], variables: Sequence[Any]) -> list[Gradient]:
        """What a rank makes of its gradients with the others: those that it applies."""
        chain, factor = self._hvd.chain, self._hvd.multiplier
        if not self._hvd.accumulates_exchanged:
            grads = self._hvd_exchanged(grads, variables)
        if factor != 1.0:
            grads = [g if g is None else scaled(g, factor) for g in grads]
        if isinstance(self, Guarded):
            applied = self._hvd_is_applied(grads)
            chain.remember(lambda: applied)
        else:
            chain.remember(lambda: exchanged_finite(grads, variables, chain))
        return list(grads)

    def _hvd_exchanged(
        self, gradients: Sequence[Gradient], variables: Sequence[Any]
    ) -> list[Gradient]:
        return self._hvd.chain.gradients(gradients, variables, self._hvd.name)


class DistributedComposite(Distributed):
    """Mixin of an optimizer that hands the gradients to others: loss scaling, `MultiOptimizer`.

    The others exchange them. Those that `MultiOptimizer` finds only when it is built are made
    distributed then.
    """

    def build(self, variables: Sequence[Any]) -> None:
        """Build the optimizer and the ones it hands gradients to."""
        with scope_of(self._distribution_strategy):
            super().build(variables)
        for inner in inner_optimizers(self):
            self._hvd.make_distributed(inner)
