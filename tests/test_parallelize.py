"""Ordinary models that are divided over ranks by themselves."""

from __future__ import annotations

from rank_checks import Check
from rank_pool import RankPools

JOBS = [("parallelize", "mpi", 2)]
LONG_JOBS = [("parallelize_meshes", "mpi", 4)]


def test_on_ranks(pools: RankPools, check: Check) -> None:
    pools.require(check)
