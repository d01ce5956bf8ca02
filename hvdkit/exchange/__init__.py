"""How the ranks of one optimizer stay together: what is sent for each gradient, and how.

`AllReduce` is the default of `hvd.DistributedOptimizer(optimizer, exchange=...)`. A method of one's
own is a class with the methods of `Exchange`, of `Aggregator` or of `Codec`.
"""

from hvdkit.exchange.adasum_delta import AdasumDelta
from hvdkit.exchange.aggregators import Gathered, Summed
from hvdkit.exchange.allreduce import AllReduce
from hvdkit.exchange.base import (
    Aggregated,
    Aggregator,
    Codec,
    Exchange,
    GradientExchange,
    Particular,
    Remembers,
)
from hvdkit.exchange.compression.casts import Cast
from hvdkit.exchange.compression.error_feedback import ErrorFeedback
from hvdkit.exchange.compression.int8 import Int8
from hvdkit.exchange.compression.one_bit import OneBit
from hvdkit.exchange.compression.power_sgd import PowerSGD
from hvdkit.exchange.compression.top_k import TopK
from hvdkit.exchange.tracked import Role, Tracked
from hvdkit.exchange.traffic import Counted, Sized, Traffic
from hvdkit.mesh.variable import variable_key

__all__ = [
    "AdasumDelta",
    "Aggregated",
    "Aggregator",
    "AllReduce",
    "Cast",
    "Codec",
    "Counted",
    "ErrorFeedback",
    "Exchange",
    "Gathered",
    "GradientExchange",
    "Int8",
    "OneBit",
    "Particular",
    "PowerSGD",
    "Remembers",
    "Role",
    "Sized",
    "Summed",
    "TopK",
    "Tracked",
    "Traffic",
    "variable_key",
]
