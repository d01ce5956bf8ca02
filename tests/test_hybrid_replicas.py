"""Ranks that each train on several local devices: tf.distribute.MirroredStrategy under Horovod."""

from __future__ import annotations

from rank_checks import Check
from rank_pool import RankPools

JOBS = [("hybrid_replicas", "mpi", 2)]
LONG_JOBS = [("hybrid_replicas", "gloo", 2)]


def test_on_ranks(pools: RankPools, check: Check) -> None:
    pools.require(check)
