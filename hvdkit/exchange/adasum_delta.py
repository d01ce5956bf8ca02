"""Adasum of what each rank's optimizer has made of its own gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from hvdkit.engine import Adasum, ProcessSet, global_process_set, ops, topology
from hvdkit.exchange.gradient import Gradient
from hvdkit.exchange.tracked import Role, Tracked
from hvdkit.mesh.variable import path_of, variable_key


@keras.saving.register_keras_serializable("hvdkit")
class AdasumDelta:
    """Each rank steps with its own gradients; the steps of all ranks are combined by Adasum.

    Steps of two ranks that point the same way are averaged, and those at right angles added up,
    variable by variable: Maleki et al., 2020, https://arxiv.org/abs/2006.02924. As Horovod does it
    with the optimizers of TensorFlow 1, for any optimizer; `AllReduce(op=hvd.Adasum)` combines
    gradients, which is the same for SGD without momentum. Weights are equal after each step, slots
    are each rank's own, and so is clipping. Over MPI, all ranks, a power of 2 of them.

    State: slots that differ; with another number of ranks all start from their mean. A step holds
    the weights before it until it ends. Bytes: those of an all-reduce of the trainable weights.

    Example:
        >>> optimizer = hvd.DistributedOptimizer(
        ...     keras.optimizers.Adam(), exchange=hvd.exchange.AdasumDelta()
        ... )
    """

    def __init__(self) -> None:
        self._before: dict[int, tf.Tensor] = {}

    @property
    def ranks(self) -> ProcessSet:
        """All ranks."""
        return global_process_set

    def build(self, variables: Sequence[Any]) -> Sequence[Tracked]:
        """See `Exchange.build`.

        Raises:
            NotImplementedError: Adasum does not work over these ranks.
        """
        if topology.size() > 1:
            ops.require_adasum()
        return [
            Tracked(v, Role.WEIGHT, path_of(v), same_on=self.ranks, own_slots=True)
            for v in variables
        ]

    def gradients(
        self, gradients: Sequence[Gradient], variables: Sequence[Any], name: str
    ) -> list[Gradient]:
        """See `Exchange.gradients`: this rank's own."""
        del name
        # Here, since others may have changed weights after the last step.
        self._before.update((variable_key(v), tf.convert_to_tensor(v)) for v in variables)
        return list(gradients)

    def weights(self, variables: Sequence[Any], iteration: Any) -> None:
        """See `Exchange.weights`."""
        del iteration
        if topology.size() == 1:
            return
        before = [self._before.pop(variable_key(variable)) for variable in variables]
        pairs = zip(variables, before, strict=True)
        steps = [tf.convert_to_tensor(variable) - old for variable, old in pairs]
        combined = ops.grouped_allreduce(steps, Adasum, name="hvdkit_adasum")
        for variable, old, step in zip(variables, before, combined, strict=True):
            variable.assign(old + step)

    def owned(self, variables: Sequence[Any]) -> list[Any]:
        """See `Exchange.owned`; all of them."""
        return list(variables)

    def agreed_by(self) -> ProcessSet:
        """See `Exchange.agreed_by`."""
        return self.ranks

    def get_config(self) -> dict[str, Any]:
        """The arguments, as plain data: none."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> AdasumDelta:
        """An exchange with the arguments of `get_config`."""
        return cls(**config)
