"""Deep gradient compression: the largest numbers only, with error feedback and momentum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from hvdkit.engine import ProcessSet
from hvdkit.exchange.base import Aggregated
from hvdkit.exchange.compression.error_feedback import ErrorFeedback
from hvdkit.exchange.compression.largest import Largest
from hvdkit.exchange.memory import Memory
from hvdkit.exchange.tracked import Tracked


@keras.saving.register_keras_serializable("hvdkit")
class TopK(ErrorFeedback):
    """An aggregator: of each gradient the numbers of the largest size travel, and their places.

    Lin et al., 2018, https://arxiv.org/abs/1712.01887. What is not sent stays in the rank's
    residual (`ErrorFeedback`). With `momentum`, each rank adds the velocity of its own gradient
    in place of the gradient (momentum correction), and forgets the velocity of what it has sent
    (factor masking); the optimizer must then have no momentum of its own:
    `keras.optimizers.SGD(learning_rate)`. Clipping by the optimizer comes after the exchange; the
    paper's clipping on each rank, before it, is left out. Forgetting weighs gradients by how seldom
    they are sent: three ranks or more whose rows ask for different weights come near the optimum of
    all rows, and not to it; the more alike the data of the ranks are, the nearer.

    State, each rank's own: a residual of the size of each variable, and with momentum a velocity
    of its size, both in float32 at least; with another number of ranks they begin at their mean.
    With a warm-up the number of steps, alike on all ranks. Bytes: 8 for each number sent, which
    are gathered: each rank receives those of all others. A variable sends ratio times its size,
    rounded up.

    Args:
        ratio: the share of a variable's numbers that is sent; the paper's is 0.001.
        momentum: of each rank's gradients.
        nesterov: whether the velocity looks ahead, as in `keras.optimizers.SGD`.
        warmup_steps: send more in so many steps: a quarter of the numbers, then a quarter of
            that, and so on, each for as many steps. The paper's are about 4 epochs of steps.

    Raises:
        ValueError: an argument is out of range; or it has momentum, and is given to an optimizer
            that has it, too.

    Example:
        >>> top = hvd.exchange.TopK(ratio=0.001, momentum=0.9, warmup_steps=2000)
        >>> exchange = hvd.exchange.AllReduce(top)
        >>> optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(0.1), exchange=exchange)
    """

    def __init__(
        self,
        ratio: float = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        warmup_steps: int = 0,
    ) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum is at least 0 and below 1, not {momentum}.")
        if nesterov and not momentum:
            raise ValueError("nesterov=True needs a momentum.")
        super().__init__(Largest(ratio, warmup_steps))
        self.momentum = momentum
        self.nesterov = nesterov
        self._velocities = Memory("velocity")
        self._config = {
            "ratio": ratio,
            "momentum": momentum,
            "nesterov": nesterov,
            "warmup_steps": warmup_steps,
        }

    def require_fitting(self, optimizer: Any) -> None:
        """See `Particular.require_fitting`.

        Raises:
            ValueError: both have momentum.
        """
        its_own = [name for name in ("momentum", "beta_1") if getattr(optimizer, name, None)]
        if self.momentum and its_own:
            raise ValueError(
                f"TopK(momentum={self.momentum}) has the momentum inside, and "
                f"{type(optimizer).__name__} has {its_own[0]}="
                f"{getattr(optimizer, its_own[0])} of its own: use "
                "keras.optimizers.SGD(learning_rate) without momentum, or TopK without momentum=."
            )

    def build(self, variables: Sequence[Any], ranks: ProcessSet) -> Sequence[Tracked]:
        """See `Aggregator.build`."""
        rows = super().build(variables, ranks)
        return [*rows, *self._velocities.own(variables)] if self.momentum else rows

    def aggregate(
        self, bucket: Sequence[tf.Tensor], variables: Sequence[Any], name: str
    ) -> Aggregated:
        """See `Aggregator.aggregate`."""
        if not self.momentum:
            return super().aggregate(bucket, variables, name)
        kept = [self._velocities[variable] for variable in variables]
        gradients = [tf.cast(g, k.dtype) for g, k in zip(bucket, kept, strict=True)]
        velocities = [self._moved(k.value, g) for k, g in zip(kept, gradients, strict=True)]
        given = [
            self._moved(v, g) if self.nesterov else v
            for v, g in zip(velocities, gradients, strict=True)
        ]
        aggregated = super().aggregate(given, variables, name)
        masked = [
            (k, tf.where(seen == 0, velocity, tf.zeros_like(velocity)))
            for k, velocity, seen in zip(kept, velocities, aggregated.sent, strict=True)
        ]
        mean = [tf.cast(m, g.dtype) for m, g in zip(aggregated.mean, bucket, strict=True)]
        return Aggregated(mean, aggregated.share, [*aggregated.kept, *masked])

    def get_config(self) -> dict[str, Any]:
        """The arguments, as plain data."""
        return dict(self._config)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> TopK:
        """An aggregator with the arguments of `get_config`."""
        return cls(**config)

    def _moved(self, velocity: Any, gradient: tf.Tensor) -> tf.Tensor:
        return self.momentum * velocity + gradient
