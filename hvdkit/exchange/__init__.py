"""How the ranks of one optimizer stay together: what is sent for each gradient, and how.

`AllReduce` is the default of `hvd.DistributedOptimizer(optimizer, exchange=...)`. A method of one's
own is a class with the methods of `Exchange`, of `Aggregator` or of `Codec`.
"""

from hvdkit.exchange.abilities import (
    CountsRows,
    Divides,
    EveryMicroStep,
    Meets,
    OutOfStep,
    Particular,
    Remembers,
    Reports,
    SeesSlots,
)
from hvdkit.exchange.adasum_delta import AdasumDelta
from hvdkit.exchange.aggregators import Gathered, Summed
from hvdkit.exchange.allreduce import AllReduce
from hvdkit.exchange.base import Aggregated, Aggregator, Codec, Exchange, GradientExchange
from hvdkit.exchange.compression.casts import Cast
from hvdkit.exchange.compression.error_feedback import ErrorFeedback
from hvdkit.exchange.compression.int8 import Int8
from hvdkit.exchange.compression.one_bit import OneBit
from hvdkit.exchange.compression.power_sgd import PowerSGD
from hvdkit.exchange.compression.top_k import TopK
from hvdkit.exchange.delayed import Delayed
from hvdkit.exchange.gossip.exchange import Gossip
from hvdkit.exchange.hierarchical import Hierarchical
from hvdkit.exchange.local_sgd.exchange import LocalSGD
from hvdkit.exchange.parameter_server import ParameterServer
from hvdkit.exchange.sharded.exchange import Sharded
from hvdkit.exchange.tracked import Role, Shard, Tracked
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
    "CountsRows",
    "Delayed",
    "Divides",
    "ErrorFeedback",
    "EveryMicroStep",
    "Exchange",
    "Gathered",
    "Gossip",
    "GradientExchange",
    "Hierarchical",
    "Int8",
    "LocalSGD",
    "Meets",
    "OneBit",
    "OutOfStep",
    "ParameterServer",
    "Particular",
    "PowerSGD",
    "Remembers",
    "Reports",
    "Role",
    "SeesSlots",
    "Shard",
    "Sharded",
    "Sized",
    "Summed",
    "TopK",
    "Tracked",
    "Traffic",
    "variable_key",
]
