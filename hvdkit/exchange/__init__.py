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
    Exchange,
    GradientExchange,
    OutOfStep,
)
from hvdkit.exchange.compression.casts import Cast
from hvdkit.exchange.parameter_server import ParameterServer
from hvdkit.exchange.tracked import Role, Tracked
from hvdkit.mesh.variable import variable_key

__all__ = [
    "Aggregated",
    "Aggregator",
    "AllReduce",
    "Cast",
    "Codec",
    "Exchange",
    "Gathered",
    "GradientExchange",
    "OutOfStep",
    "ParameterServer",
    "Role",
    "Summed",
    "Tracked",
    "variable_key",
]
