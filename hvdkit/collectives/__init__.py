"""Collectives for users: tensors, variables, NumPy arrays and Python numbers."""

from hvdkit.collectives.moving import allgather, alltoall, broadcast, grouped_allgather
from hvdkit.collectives.reducing import (
    allreduce,
    grouped_allreduce,
    grouped_reducescatter,
    reducescatter,
)

__all__ = [
    "allgather",
    "allreduce",
    "alltoall",
    "broadcast",
    "grouped_allgather",
    "grouped_allreduce",
    "grouped_reducescatter",
    "reducescatter",
]
