"""Where figures go, from real ranks."""

from __future__ import annotations

from rank_checks import Check
from rank_pool import RankPools

JOBS = [("monitoring_sinks", "mpi", 2)]
LONG_JOBS = [("monitoring_sinks", "gloo", 2), ("monitoring_sinks", "mpi", 3)]


def test_on_ranks(pools: RankPools, check: Check) -> None:
    pools.require(check)
