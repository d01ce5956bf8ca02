"""The contract of DistributedOptimizer, on real ranks."""

from __future__ import annotations

from rank_checks import Check
from rank_pool import RankPools

JOBS = [
    ("optimizers", "mpi", 2),
    ("optimizer_steps", "mpi", 2),
    ("exchanges", "mpi", 2),
]
LONG_JOBS = [
    ("optimizers", "gloo", 3),
    ("optimizer_steps", "gloo", 3),
    ("exchanges", "gloo", 3),
    ("exchanges.sharded_rows", "mpi", 1),
]


def test_on_ranks(pools: RankPools, check: Check) -> None:
    pools.require(check)
