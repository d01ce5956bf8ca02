"""The ways to stay together that `exchange.py` compares.

Their names can be had without TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hvdkit as hvd

EVERY = 8
"""Updates from one meeting to the next, of those that meet."""

EXCHANGES: dict[str, Callable[[], Any]] = {
    "allreduce": lambda: hvd.exchange.AllReduce(),
    "bf16": lambda: hvd.exchange.AllReduce(compression=hvd.Compression.bf16),
    "int8": lambda: hvd.exchange.AllReduce(hvd.exchange.Int8()),
    "onebit": lambda: hvd.exchange.AllReduce(hvd.exchange.ErrorFeedback(hvd.exchange.OneBit())),
    "topk": lambda: hvd.exchange.AllReduce(hvd.exchange.TopK(ratio=0.01)),
    "powersgd": lambda: hvd.exchange.AllReduce(hvd.exchange.PowerSGD(rank=4), groups=1),
    "sharded": lambda: hvd.exchange.Sharded(),
    "delayed": lambda: hvd.exchange.Delayed(),
    "local_sgd": lambda: hvd.exchange.LocalSGD(every=EVERY),
    "diloco": lambda: _diloco(),
    "gossip": lambda: hvd.exchange.Gossip("ring"),
}
ALONE = "alone"
"""Without communication."""
METHODS = (ALONE, *EXCHANGES)


def distributed(optimizer: Any, method: str) -> Any:
    """An optimizer that stays together by a method; "alone" does not."""
    if method == ALONE:
        return optimizer
    return hvd.DistributedOptimizer(optimizer, exchange=EXCHANGES[method]())


def sent_bytes(method: str, variables: list[Any], ranks: int) -> float | None:
    """Bytes that a rank sends for an update, in theory; None where the method does not tell.

    Args:
        method: one of `METHODS`.
        variables: what is trained.
        ranks: number of ranks.
    """
    weights = sum(v.value.shape.num_elements() * v.value.dtype.size for v in variables)
    whole = 2 * (ranks - 1) / ranks * weights
    if method == ALONE:
        return 0.0
    if method == "sharded":
        return whole
    if method in ("local_sgd", "diloco"):
        return whole / EVERY
    if method == "gossip":
        return float(weights * min(2, ranks - 1))
    return float(EXCHANGES[method]().traffic(variables).sent(ranks))


def _diloco() -> Any:
    import keras

    outer = keras.optimizers.SGD(0.7, momentum=0.9, nesterov=True)
    return hvd.exchange.LocalSGD(every=EVERY, outer=outer)
