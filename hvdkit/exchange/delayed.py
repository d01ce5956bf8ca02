"""Hide the exchange behind a whole step: gradients are applied one step late."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from hvdkit.engine import ProcessSet
from hvdkit.exchange.abilities import Particular, Remembers
from hvdkit.exchange.allreduce import AllReduce
from hvdkit.exchange.base import GradientExchange, leaves_weights
from hvdkit.exchange.gradient import Gradient
from hvdkit.exchange.tracked import Role, Tracked
from hvdkit.exchange.traffic import Traffic, traffic_of
from hvdkit.mesh.layout import layout_of
from hvdkit.mesh.variable import path_of, raw, variable_key


@keras.saving.register_keras_serializable("hvdkit")
class Delayed(GradientExchange):
    """Exchange the gradients of a step during the next step, and apply them at its end.

    That is Pipe-SGD (Li et al., 2018, https://arxiv.org/abs/1811.03619) with one iteration in
    flight. In a graph the exchange of the last step's gradients waits for nothing that is computed
    in this one, so it goes on beside the whole forward and backward pass, and a step takes the
    longer of the two. Eagerly one comes after the other. The price is gradients that belong to the
    weights of one update before.

    It keeps each rank's own last gradient, as large as the variables, until it is exchanged; that
    is saved, and a resumed training goes on to the bit. With another number of ranks each starts
    from the mean, which gives the same next update. What is sent is what `exchange` sends.

    - The first step applies gradients of zero, and counts: plain SGD and Adam stay where they are,
      weight decay does not.
    - At the end of a training the last gradient is pending: another `fit` begins with it, and
      otherwise it is dropped.
    - Sparse gradients are kept, exchanged and applied as dense ones.
    - A step whose gradients are not finite is left out one step late with `nonfinite=`, on all
      ranks; the pending gradient of the next is kept. With loss scaling the ranks look at
      gradients before they are kept: those that are not finite never are, and what was pending
      stays so.
    - A rank alone has nothing to wait for, and applies its gradients at once.

    Args:
        steps: 1; or 0 to exchange and apply gradients in their own step.
        exchange: how gradients are exchanged; None for `AllReduce()`. It may keep state, as one
            with error feedback does.

    Raises:
        ValueError: `steps` is something else: more would hide no more; or the exchange works on
            weights.

    Example:
        >>> exchange = hvd.exchange.Delayed()
        >>> optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(0.1), exchange=exchange)
    """

    def __init__(self, steps: int = 1, exchange: GradientExchange | None = None) -> None:
        if isinstance(steps, bool) or steps not in (0, 1):
            raise ValueError(
                f"steps is 0 or 1, not {steps!r}: the exchange of one step hides behind the next "
                "one, and a gradient that is older still would only be less use."
            )
        inner = AllReduce() if exchange is None else exchange
        if not leaves_weights(inner):
            raise ValueError(
                f"Delayed delays an exchange of gradients, and {type(inner).__name__} works on "
                "weights."
            )
        self._steps = steps
        self._inner = inner
        self._pending: dict[int, keras.Variable] = {}

    @property
    def ranks(self) -> ProcessSet:
        """The ranks that exchange gradients."""
        return self._inner.ranks

    def build(self, variables: Sequence[Any]) -> list[Tracked]:
        """Make what keeps the gradients, and what the inner exchange keeps."""
        rows = list(self._inner.build(variables))
        for variable in variables if self._steps else ():
            pending = keras.Variable(
                tf.zeros(variable.shape, variable.dtype), trainable=False, name="pending"
            )
            self._pending[variable_key(variable)] = pending
            path = f"delayed/pending/{path_of(variable)}"
            rows.append(Tracked(pending, Role.RESIDUAL, path, layout_of(variable)))
        return rows

    def gradients(
        self, gradients: Sequence[Gradient], variables: Sequence[Any], name: str
    ) -> list[Gradient]:
        """What all ranks' gradients of the last step have become; this step's are kept."""
        if not self._steps:
            return self._inner.gradients(gradients, variables, name)
        # A variable of which the optimizer was not told keeps nothing: it is a local one.
        kept = [
            None if gradient is None else self._pending[variable_key(variable)]
            for gradient, variable in zip(gradients, variables, strict=True)
        ]
        before = [None if one is None else tf.convert_to_tensor(raw(one)) for one in kept]
        exchanged = self._inner.gradients(before, variables, name)
        for one, gradient in zip(kept, gradients, strict=True):
            if one is not None:
                one.assign(tf.cast(tf.convert_to_tensor(gradient), one.dtype))
        return exchanged

    def agreed_by(self) -> ProcessSet | None:
        """See `Exchange.agreed_by`."""
        return self._inner.agreed_by()

    def remember(self, applied: Callable[[], tf.Tensor]) -> None:
        """See `Remembers`: what the inner exchange keeps goes with what it has exchanged."""
        if isinstance(self._inner, Remembers):
            self._inner.remember(applied)

    def require_fitting(self, optimizer: Any) -> None:
        """See `Particular`."""
        if isinstance(self._inner, Particular):
            self._inner.require_fitting(optimizer)

    def traffic(self, tensors: Sequence[Any], step: int | None = None) -> Traffic:
        """See `Counted`; what the inner exchange sends."""
        return traffic_of(self._inner, tensors, step)

    def get_config(self) -> dict[str, Any]:
        """The arguments, as plain data."""
        return {
            "steps": self._steps,
            "exchange": keras.saving.serialize_keras_object(self._inner),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Delayed:
        """An exchange with the arguments of `get_config`; every rank calls it."""
        inner = keras.saving.deserialize_keras_object(config["exchange"])
        return cls(config["steps"], inner)
