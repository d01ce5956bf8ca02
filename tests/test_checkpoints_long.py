"""Checkpoints on real ranks: what takes long."""

from __future__ import annotations

import pytest
from rank_checks import Check
from rank_pool import RankPools

pytestmark = pytest.mark.long

JOBS = [
    ("checkpoints", "gloo", 3),
    ("checkpoints_long", "mpi", 3),
    ("checkpoints_long", "gloo", 3),
]


def test_on_ranks(pools: RankPools, check: Check) -> None:
    pools.require(check)
