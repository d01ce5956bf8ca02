"""Leave out steps whose gradients hold NaN or Inf, in the graph and on all ranks alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from hvdkit.engine import Min, ProcessSet, ops
from hvdkit.engine.local_replicas import local_replicas
from hvdkit.exchange.chain import Chain
from hvdkit.exchange.gradient import Gradient
from hvdkit.optimizers.composition import Attached, leaves
from hvdkit.optimizers.nonfinite_policy import Policy, Skipped
from hvdkit.watch.activity import own_variable

do_not_convert = tf.autograph.experimental.do_not_convert


class FiniteGuard:
    """Whether the last gradients were finite, and how often they were not.

    Its variables are none of the optimizer's, so they are neither saved nor sent.

    Args:
        policy: what `react` does about steps that were left out.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._names: list[str] = []
        self._reported = 0
        self._built = False

    def build(self) -> None:
        """Make the variables, outside of the graph that is being traced."""
        if self._built:
            return
        self._built = True
        with tf.init_scope():
            self.finite = own_variable(True, tf.bool)
            self.total = own_variable(0, tf.int64)
            self.in_a_row = own_variable(0, tf.int64)

    def look(
        self,
        gradients: Sequence[Gradient],
        variables: Sequence[Any],
        known: Sequence[Any],
        chain: Chain,
    ) -> None:
        """Note whether exchanged gradients are finite.

        They are the same on all ranks, but for those of local variables and of models that are
        divided over ranks: where there are any, the ranks ask each other.

        Args:
            gradients: the exchanged gradients.
            variables: what they belong to.
            known: all variables of the optimizer.
            chain: what they went through.
        """
        each = [_is_finite(gradient) for gradient in gradients]
        process_set = chain.agreed_by
        if process_set is None and chain.active and any(map(chain.is_local, variables)):
            process_set = chain.ranks
        finite = _agreed(tf.reduce_all(each), process_set)
        bad = {id(variable): ~one for variable, one in zip(variables, each, strict=True)}
        self._name(known)
        flags = tf.stack([bad.get(id(variable), tf.constant(False)) for variable in known])
        self.bad.assign(tf.where(finite, self.bad, flags))
        self.finite.assign(finite)
        skipped = tf.cast(~finite, tf.int64)
        self.total.assign_add(skipped)
        self.in_a_row.assign((self.in_a_row + 1) * skipped)

    def _name(self, known: Sequence[Any]) -> None:
        if not self._names:
            self._names = [getattr(variable, "path", variable.name) for variable in known]
            with tf.init_scope():
                self.bad = own_variable(tf.zeros([len(known)], tf.bool), tf.bool)

    def react(self) -> None:
        """Ask the policy what to do about steps that were left out since the last call."""
        if not self._built:
            return
        total = int(self.total.numpy())
        new, self._reported = total - self._reported, total
        if new:
            names = zip(self._names, self.bad.numpy(), strict=True)
            bad = tuple(name for name, is_bad in names if is_bad)
            self.policy.react(Skipped(new, int(self.in_a_row.numpy()), total, bad))

    @property
    def skipped(self) -> int:
        """Steps that were left out so far."""
        return int(self.total.numpy()) if self._built else 0


class Guarded(keras.optimizers.Optimizer):
    """Mixin of a distributed optimizer that leaves out steps that are not finite.

    It stands next to the Keras class: what Keras does with exchanged gradients, and after the
    update, depends on the guard.
    """

    _hvd: Attached
    _hvd_guard: FiniteGuard

    @do_not_convert
    def apply(self, grads: Sequence[Gradient], trainable_variables: Any = None) -> None:
        """Apply gradients as in Keras, or nothing."""
        if local_replicas() > 1:
            raise NotImplementedError(
                "nonfinite=... does not go with several local devices (MirroredStrategy)."
            )
        guard = self._hvd_guard
        guard.build()
        guard.finite.assign(True)
        given = self._trainable_variables if trainable_variables is None else trainable_variables
        constrained = [v for v in given if getattr(v, "constraint", None) is not None]
        before = [tf.identity(v.value) for v in constrained]
        super().apply(grads, trainable_variables)
        finite = guard.finite.read_value()
        # Keras projects onto constraints, and counts, whether or not there was an update.
        for variable, old in zip(constrained, before, strict=True):
            variable.assign(tf.where(finite, variable.value, old))
        steps = self.gradient_accumulation_steps or 1
        self._iterations.assign_sub(tf.where(finite, 0, steps))

    def _hvd_is_applied(self, exchanged: Sequence[Gradient]) -> tf.Tensor:
        guard = self._hvd_guard
        guard.look(exchanged, self._hvd.variables, self._trainable_variables, self._hvd.chain)
        return guard.finite.read_value()

    @do_not_convert
    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        parent: Any = super()
        self._hvd_if_finite(lambda: parent._apply_weight_decay(variables))

    @do_not_convert
    def _backend_update_step(
        self, grads: Sequence[Gradient], trainable_variables: Sequence[Any], learning_rate: Any
    ) -> None:
        parent: Any = super()
        self._hvd_if_finite(
            lambda: parent._backend_update_step(grads, trainable_variables, learning_rate)
        )

    @do_not_convert
    def _update_model_variables_moving_average(self, trainable_variables: Sequence[Any]) -> None:
        parent: Any = super()
        self._hvd_if_finite(
            lambda: parent._update_model_variables_moving_average(trainable_variables)
        )

    @do_not_convert
    def _overwrite_model_variables_with_average_value(
        self, trainable_variables: Sequence[Any]
    ) -> None:
        parent: Any = super()
        self._hvd_if_finite(
            lambda: parent._overwrite_model_variables_with_average_value(trainable_variables)
        )

    def _hvd_if_finite(self, do: Any) -> None:
        def nothing() -> None:
            return None

        def something() -> None:
            do()

        tf.cond(self._hvd_guard.finite, something, nothing)


def guards(optimizer: Any) -> list[FiniteGuard]:
    """The guards of an optimizer's parts that update variables; none without a policy."""
    if optimizer is None:
        return []
    return [leaf._hvd_guard for leaf in leaves(optimizer) if isinstance(leaf, Guarded)]


def exchanged_finite(
    exchanged: Sequence[Gradient], variables: Sequence[Any], chain: Chain
) -> tf.Tensor:
    """Whether what ranks have exchanged is finite, alike on all of them; local gradients are not.

    Args:
        exchanged: the exchanged gradients.
        variables: what they belong to.
        chain: what they went through.
    """
    pairs = zip(exchanged, variables, strict=True)
    each = [_is_finite(gradient) for gradient, v in pairs if not chain.is_local(v)]
    return _agreed(tf.reduce_all(each), chain.agreed_by)


def _agreed(finite: tf.Tensor, process_set: ProcessSet | None) -> tf.Tensor:
    """Whether it is so on all ranks of a process set; None where it is the same on them."""
    if process_set is None:
        return finite
    number = tf.cast(finite, tf.int32)
    agreed = ops.allreduce(number, Min, name="hvdkit_nonfinite", process_set=process_set)
    return tf.cast(agreed, tf.bool)


def _is_finite(gradient: Gradient) -> tf.Tensor:
    if gradient is None:  # another rank applies it
        return tf.constant(True)
    values = gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient
    if not values.dtype.is_floating and not values.dtype.is_complex:
        return tf.constant(True)
    return tf.reduce_all(tf.math.is_finite(tf.math.real(values)))
