"""Checkpoints on real ranks."""

from __future__ import annotations

from rank_checks import Check
from rank_pool import RankPools

JOBS = [("checkpoints", "mpi", 2)]
LONG_JOBS = [("checkpoints", "mpi", 3)]


def test_on_ranks(pools: RankPools, check: Check) -> None:
    pools.require(check)
