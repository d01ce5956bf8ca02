"""How the ranks of one optimizer stay together: what is sent for each gradient, and how.

`AllReduce` is the default of `hvd.DistributedOptimizer(optimizer, exchange=...)`. A method of one's
own is a class with the methods of `Exchange`, of `Aggregator` or of `Codec`.
"""

from hvdkit.exchange.aggregators import Gathered, Summed
from hvdkit.exchange.allreduce import AllReduce
from hvdkit.exchange.base import (
    Aggregated,
    Aggregator,
    Codec,
    Divides,
    EveryMicroStep,
    Exchange,
    GradientExchange,
)
from hvdkit.exchange.compression.casts import Cast
from hvdkit.exchange.sharded.exchange import Sharded
from hvdkit.exchange.tracked import Role, Shard, Tracked
from hvdkit.mesh.variable import variable_key

__all__ = [
    "Aggregated",
    "Aggregator",
    "AllReduce",
    "Cast",
    "Codec",
    "Divides",
    "EveryMicroStep",
    "Exchange",
    "Gathered",
    "GradientExchange",
    "Role",
    "Shard",
    "Sharded",
    "Summed",
    "Tracked",
    "variable_key",
]
