"""Every collective, on real ranks over MPI and Gloo."""

from __future__ import annotations

from rank_checks import Check
from rank_pool import RankPools

JOBS = [
    ("collectives", "mpi", 3),
    # What goes other ways over Gloo.
    ("collectives.operations", "gloo", 2),
    ("collectives.moving", "gloo", 2),
    ("collectives.objects", "gloo", 2),
    ("collectives.process_sets", "gloo", 2),
]
LONG_JOBS = [
    ("collectives", "gloo", 2),
    ("collectives", "mpi", 4),
    ("collectives", "mpi", 1),
    ("collectives", "mpi", 2),
    ("collectives", "gloo", 1),
    ("collectives", "gloo", 3),
]


def test_on_ranks(pools: RankPools, check: Check) -> None:
    pools.require(check)
