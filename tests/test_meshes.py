"""Data, pipeline and tensor parallelism together, on real ranks."""

from __future__ import annotations

from rank_checks import Check
from rank_pool import RankPools

JOBS = [("meshes", "mpi", 4)]
LONG_JOBS = [("meshes", "mpi", 8), ("meshes_trained", "mpi", 4), ("meshes_trained", "mpi", 8)]


def test_on_ranks(pools: RankPools, check: Check) -> None:
    pools.require(check)
