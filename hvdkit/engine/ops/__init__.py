"""Collectives on tensors: TensorFlow in, TensorFlow out, nothing converted for the user.

Names of operations count in graphs. Eagerly TensorFlow does not pass them on, and every allreduce
is called "HorovodAllreduce" between ranks.
"""

from hvdkit.engine.ops.move import allgather, alltoall, broadcast, grouped_allgather
from hvdkit.engine.ops.packed import grouped_broadcast
from hvdkit.engine.ops.reduce import (
    allreduce,
    grouped_allreduce,
    grouped_reducescatter,
    require_adasum,
)
from hvdkit.engine.ops.wait import barrier, join

__all__ = [
    "allgather",
    "allreduce",
    "alltoall",
    "barrier",
    "broadcast",
    "grouped_allgather",
    "grouped_allreduce",
    "grouped_broadcast",
    "grouped_reducescatter",
    "join",
    "require_adasum",
]
