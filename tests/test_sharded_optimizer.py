"""Sharded optimizers on real ranks."""

from __future__ import annotations

from rank_checks import Check
from rank_pool import RankPools

JOBS = [
    ("sharded_optimizer", "mpi", 2),
    ("sharded_optimizer.slots", "mpi", 3),
]
LONG_JOBS = [
    ("sharded_optimizer", "gloo", 3),
    ("sharded_optimizer.trained", "mpi", 4),
    ("sharded_optimizer.rules", "mpi", 1),
]


def test_on_ranks(pools: RankPools, check: Check) -> None:
    pools.require(check)
