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
    "hierarchical": lambda: hvd.exchange.AllReduce(hvd.exchange.Hierarchical()),
    "sharded": lambda: hvd.exchange.Sharded(),
    "delayed": lambda: hvd.exchange.Delayed(),
    "local_sgd": lambda: hvd.exchange.LocalSGD(every=EVERY),
    "diloco": lambda: _diloco(),
    "gossip": lambda: hvd.exchange.Gossip("ring"),
}
ALONE = "alone"
"""Without communication."""
HIERARCHICAL = "hierarchical"
"""It is for several ranks on each host: with one it is "allreduce", so it has to be asked for."""
METHODS = (ALONE, *(name for name in EXCHANGES if name != HIERARCHICAL))


def distributed(optimizer: Any, method: str) -> Any:
    """An optimizer that stays together by a method; "alone" does not."""
    if method == ALONE:
        return optimizer
    return hvd.DistributedOptimizer(optimizer, exchange=EXCHANGES[method]())


def sent_bytes(method: str, variables: list[Any], ranks: int, hosts: int) -> float:
    """Bytes that a host sends for an update, in theory.

    That is for rings that go from rank to rank, so that one link leads out of each host: with
    several ranks on a host all of them send as much, and one of them to another host.

    Args:
        method: one of `METHODS`, or `HIERARCHICAL`.
        variables: what is trained.
        ranks: number of ranks.
        hosts: number of hosts, with equally many ranks on each.
    """
    if method == ALONE:
        return 0.0
    in_the_ring = hosts if method == HIERARCHICAL else ranks
    return float(EXCHANGES[method]().traffic(variables).sent(in_the_ring))


def _diloco() -> Any:
    import keras

    outer = keras.optimizers.SGD(0.7, momentum=0.9, nesterov=True)
    return hvd.exchange.LocalSGD(every=EVERY, outer=outer)
