"""Distributed optimizers in a process with several local devices (`MirroredStrategy`).

Keras sums gradients over the local replicas last, after it has accumulated and clipped those of
each by itself. With other ranks they are summed first: what follows is then the same on all
replicas, as on the one device of a rank that had all their rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from hvdkit.engine.elastic import is_elastic
from hvdkit.engine.local_replicas import local_replicas, summed_over_replicas
from hvdkit.exchange.abilities import EveryMicroStep, OutOfStep
from hvdkit.exchange.base import leaves_weights
from hvdkit.exchange.chain import Chain
from hvdkit.exchange.gradient import Gradient
from hvdkit.optimizers.composition import Attached, attached_to, inner_optimizers, leaves
from hvdkit.optimizers.finite import Guarded

do_not_convert = tf.autograph.experimental.do_not_convert

_INSTEAD = "use one rank for each device (horovodrun, mpirun) instead"


class OnLocalReplicas(keras.optimizers.Optimizer):
    """Mixin of a distributed optimizer: gradients are summed over the local replicas first.

    It stands next to the Keras class.
    """

    _hvd: Attached

    @do_not_convert
    def apply(self, grads: Sequence[Gradient], trainable_variables: Any = None) -> None:
        """Apply the sum of the local replicas' gradients, as in Keras.

        Raises:
            NotImplementedError, ValueError: on every rank: it can't be right, see
                `require_possible`.
        """
        if sums_first(self._hvd.chain):
            require_possible(self, tf.distribute.get_strategy())
            _require_built(self)
            grads = summed_over_replicas(list(grads))
        super().apply(grads, trainable_variables)

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
        if sums_first(self._hvd.chain):
            return list(grads_and_vars)  # the same on all replicas already
        return super()._all_reduce_sum_gradients(grads_and_vars)

    @do_not_convert
    def _backend_apply_gradients(
        self, grads: Sequence[Gradient], trainable_variables: Sequence[Any]
    ) -> None:
        if not self.gradient_accumulation_steps or not sums_first(self._hvd.chain):
            super()._backend_apply_gradients(grads, trainable_variables)
            return
        # What meets is not allowed in a branch of one replica: they branch where they have met.
        tf.distribute.get_replica_context().merge_call(
            self._hvd_accumulate, args=(list(grads), list(trainable_variables))
        )
        if self.use_ema:
            self._update_model_variables_moving_average(self._trainable_variables)

    def _hvd_accumulate(self, strategy: Any, grads: Any, variables: list[Any]) -> None:
        each = strategy.extended.call_for_each_replica

        def update() -> None:
            each(self._hvd_update, args=(grads, variables))

        def add() -> None:
            each(self._hvd_add, args=(grads, variables))

        steps = self.gradient_accumulation_steps
        tf.cond(tf.equal((self._iterations + 1) % steps, 0), update, add)

    def _hvd_update(self, grads: Sequence[Gradient], variables: Sequence[Any]) -> None:
        # As in Keras's `_backend_apply_gradients`.
        steps = self.gradient_accumulation_steps
        sums = zip(grads, self._hvd_accumulators(variables), strict=True)
        grads = self._clip_gradients([(g + added) / steps for g, added in sums])
        self._apply_weight_decay(variables)
        self._backend_update_step(grads, variables, self.learning_rate)
        self._backend_reset_gradient_accumulators()

    def _hvd_add(self, grads: Sequence[Gradient], variables: Sequence[Any]) -> None:
        for gradient, added in zip(grads, self._hvd_accumulators(variables), strict=True):
            added.assign(added + gradient)

    def _hvd_accumulators(self, variables: Sequence[Any]) -> list[Any]:
        return [self._accumulated_gradients[self._get_variable_index(v)] for v in variables]


def sums_first(chain: Chain) -> bool:
    """Whether gradients are summed over several local replicas before they go to other ranks."""
    return local_replicas() > 1 and chain.active


def require_possible(optimizer: Any, strategy: Any) -> None:
    """Refuse what can't be right on several local devices of several ranks.

    It asks nobody: what it looks at is the same on all ranks.

    Args:
        optimizer: a distributed optimizer.
        strategy: the one of the model, of several local replicas.

    Raises:
        ValueError, NotImplementedError: with the way out.
    """
    if not isinstance(strategy, tf.distribute.MirroredStrategy) or isinstance(
        strategy, tf.distribute.MultiWorkerMirroredStrategy
    ):
        raise NotImplementedError(
            f"several ranks train in the scope of tf.distribute.{type(strategy).__name__}: use "
            'hvd.strategy("mirrored") for the local devices of each rank, and nothing else '
            "between ranks."
        )
    if is_elastic():
        raise NotImplementedError(
            f"elastic jobs have one device for each rank, and no MirroredStrategy: {_INSTEAD}."
        )
    for one in [optimizer, *inner_optimizers(optimizer), *leaves(optimizer)]:
        if one._distribution_strategy is not strategy:
            raise ValueError(
                f"the {type(one).__name__} optimizer was made outside the scope in which the model "
                "was: make, wrap and compile it in `with strategy.scope():`."
            )
    for leaf in leaves(optimizer):
        attached = attached_to(leaf)
        problem = None if attached is None else _problem(leaf, attached.chain)
        if problem is not None:
            raise NotImplementedError(
                f"{problem} does not go with several local devices (MirroredStrategy) in a job of "
                f"several ranks: {_INSTEAD}."
            )


def _problem(leaf: Any, chain: Chain) -> str | None:
    """What of an optimizer that updates variables can't be right on several local replicas."""
    exchange = chain.exchange
    if (
        not leaves_weights(exchange)
        or isinstance(exchange, OutOfStep)
        or (isinstance(exchange, EveryMicroStep) and exchange.every_micro_step)
    ):
        return f"exchange={type(exchange).__name__}, which works on weights,"
    if chain.mesh is not None and chain.mesh.is_model_parallel:
        return "a mesh with tensor or pipeline ranks"
    if isinstance(leaf, Guarded):
        return "nonfinite=..."
    if leaf.use_ema and leaf.ema_overwrite_frequency:
        return "ema_overwrite_frequency, which Keras can't do there in one process either,"
    return None


def _require_built(optimizer: Any) -> None:
    """Refuse to make slots inside a step, where each replica would make its own.

    Raises:
        ValueError: on every rank.
    """
    if tf.distribute.get_replica_context() is None:
        raise ValueError(
            "gradients are applied in the scope of a strategy, and not in a step of it: call "
            "optimizer.apply in the function that strategy.run(...) gets."
        )
    if not optimizer.built:
        raise ValueError(
            f"the {type(optimizer).__name__} optimizer has no slots yet, and a step on several "
            "local devices can't make them: call optimizer.build(model.trainable_variables) in "
            "`with strategy.scope():` before the first strategy.run(...)."
        )
