"""hvd.strategy in one process with local devices, and on ranks."""

from __future__ import annotations

from rank_checks import Check
from rank_pool import RankPools

JOBS = [("strategies", "python", 1), ("strategies", "mpi", 2)]


def test_on_ranks(pools: RankPools, check: Check) -> None:
    pools.require(check)
