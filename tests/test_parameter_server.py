"""A parameter server, on real ranks: one server and two workers, or two servers and one worker."""

from __future__ import annotations

from rank_checks import Check
from rank_pool import RankPools

JOBS = [("parameter_server", "mpi", 3)]
LONG_JOBS = [("parameter_server", "mpi", 5)]


def test_on_ranks(pools: RankPools, check: Check) -> None:
    pools.require(check)
