"""PowerSGD: gradients of low rank, with error feedback."""

from __future__ import annotations

from typing import Any

import keras

from hvdkit.exchange.compression.error_feedback import ErrorFeedback
from hvdkit.exchange.compression.low_rank import LowRank


@keras.saving.register_keras_serializable("hvdkit")
class PowerSGD(ErrorFeedback):
    """An aggregator: each gradient matrix travels as two thin ones, in two all-reduces.

    Vogels et al., 2019, https://arxiv.org/abs/1905.13727. A kernel is viewed as a matrix [n, m],
    of its inputs by its outputs. One step of a power iteration, begun where the last step ended,
    finds `rank` directions; what is not in them stays in the rank's residual (`ErrorFeedback`).
    Gradients of vectors, and of matrices that would not become small enough, travel as they are.

    State: a residual of the size of each kernel, each rank's own; Q [m, rank] of each, and the
    number of steps, alike on all ranks. With another number of ranks residuals begin at their
    mean. Bytes: 4 rank (n + m) in place of 4 n m, and those of the vectors. The first all-reduce of
    a bucket takes the first factors and the vectors, the second one the second factors; on a slow
    link few large buckets are better: `AllReduce(PowerSGD(), groups=1)`. Half-precision gradients
    are factored, and their factors sent, in float32.

    Momentum belongs into the optimizer, after this. It was not tried over NCCL.

    Args:
        rank: directions for each matrix; 4 is a good start, 1 sends the least.
        start_step: send the gradients of so many steps as they are, since those of the first
            steps change most; about a tenth of all steps is usual.
        min_compression: factor a matrix only if that makes it smaller by more than this.
        seed: of the directions of the first step, the same on all ranks.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> exchange = hvd.exchange.AllReduce(hvd.exchange.PowerSGD(rank=4, start_step=100))
        >>> optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(0.1), exchange=exchange)
    """

    def __init__(
        self, rank: int = 4, start_step: int = 0, min_compression: float = 2.0, seed: int = 0
    ) -> None:
        super().__init__(LowRank(rank, start_step, min_compression, seed))
        self._config = {
            "rank": rank,
            "start_step": start_step,
            "min_compression": min_compression,
            "seed": seed,
        }

    def get_config(self) -> dict[str, Any]:
        """The arguments, as plain data."""
        return dict(self._config)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> PowerSGD:
        """An aggregator with the arguments of `get_config`."""
        return cls(**config)
