"""Layers divided over tensor groups, on real ranks."""

from __future__ import annotations

from rank_checks import Check
from rank_pool import RankPools

JOBS = [("tensor_parallel", "mpi", 2)]
# test_gpt.py has a tensor group over Gloo in the usual tests.
LONG_JOBS = [("tensor_parallel", "gloo", 2), ("tensor_parallel", "mpi", 4)]


def test_on_ranks(pools: RankPools, check: Check) -> None:
    pools.require(check)
