"""Compression of gradients: its bytes, by shapes; and what it does, on real ranks."""

from __future__ import annotations

from rank_checks import Check
from rank_pool import RankPools

JOBS = [("compression", "mpi", 2)]
LONG_JOBS = [("compression", "gloo", 3)]


def test_on_ranks(pools: RankPools, check: Check) -> None:
    pools.require(check)
