"""What a rank needs is what is planned, on real ranks."""

from __future__ import annotations

from rank_checks import Check
from rank_pool import RankPools

JOBS = [("memory_plan", "mpi", 2)]
LONG_JOBS = [("memory_plan", "mpi", 4)]


def test_on_ranks(pools: RankPools, check: Check) -> None:
    pools.require(check)
