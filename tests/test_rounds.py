"""Exchanges with fewer rounds, on real ranks."""

from __future__ import annotations

from rank_checks import Check
from rank_pool import RankPools

JOBS = [("rounds", "mpi", 2)]
LONG_JOBS = [
    ("rounds", "gloo", 3),
    ("rounds.local_sgd", "mpi", 1),
    ("rounds.local_sgd_mesh", "mpi", 4),
]


def test_on_ranks(pools: RankPools, check: Check) -> None:
    pools.require(check)
