"""hvd.shard on real ranks, with data that does not divide."""

from __future__ import annotations

from rank_checks import Check
from rank_pool import RankPools

JOBS = [("sharding", "mpi", 2), ("sharding_models", "mpi", 2), ("sharding_inputs", "mpi", 2)]
LONG_JOBS = [
    ("sharding", "mpi", 1),
    ("sharding", "mpi", 3),
    ("sharding", "gloo", 2),
    ("sharding_models", "mpi", 1),
    ("sharding_models", "gloo", 3),
    ("sharding_inputs", "mpi", 1),
    ("sharding_inputs", "gloo", 3),
    ("sharding_long", "mpi", 2),
    ("sharding_long", "gloo", 3),
]


def test_on_ranks(pools: RankPools, check: Check) -> None:
    pools.require(check)
