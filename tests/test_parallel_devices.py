"""One model over the devices of one process, on logical CPU devices."""

from __future__ import annotations

from rank_checks import Check
from rank_pool import RankPools

JOBS = [("parallel_devices", "python", 1), ("parallel_devices_on_ranks", "mpi", 2)]
LONG_JOBS = [("parallel_devices_kinds", "python", 1), ("parallel_devices_on_ranks", "gloo", 2)]


def test_on_devices(pools: RankPools, check: Check) -> None:
    pools.require(check)
