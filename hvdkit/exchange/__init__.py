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
    CountsRows,
    Exchange,
    GradientExchange,
    Meets,
    Reports,
    SeesSlots,
)
from hvdkit.exchange.compression.casts import Cast
from hvdkit.exchange.delayed import Delayed
from hvdkit.exchange.gossip import Gossip
from hvdkit.exchange.local_sgd import LocalSGD
from hvdkit.exchange.tracked import Role, Tracked
from hvdkit.mesh.variable import variable_key

__all__ = [
    "Aggregated",
    "Aggregator",
    "AllReduce",
    "Cast",
    "Codec",
    "CountsRows",
    "Delayed",
    "Exchange",
    "Gathered",
    "Gossip",
    "GradientExchange",
    "LocalSGD",
    "Meets",
    "Reports",
    "Role",
    "SeesSlots",
    "Summed",
    "Tracked",
    "variable_key",
]
