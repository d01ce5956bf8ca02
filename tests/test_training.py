"""Training and callbacks on real ranks."""

from __future__ import annotations

from rank_checks import Check
from rank_pool import RankPools

JOBS = [("training", "gloo", 2), ("callbacks", "mpi", 2)]
LONG_JOBS = [
    ("training", "mpi", 3),
    ("callbacks", "mpi", 3),
    ("callbacks", "mpi", 4),
    ("callbacks", "gloo", 4),
]


def test_on_ranks(pools: RankPools, check: Check) -> None:
    pools.require(check)
