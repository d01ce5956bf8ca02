"""Every collective, on real ranks over MPI and Gloo."""

from __future__ import annotations

from rank_checks import Check
from rank_pool import RankPools

JOBS = [("collectives", "mpi", 4), ("collectives", "gloo", 3)]
LONG_JOBS = [("collectives", launcher, ranks) for launcher in ("mpi", "gloo") for ranks in (1, 2)]


def test_on_ranks(pools: RankPools, check: Check) -> None:
    pools.require(check)
