"""One model over the devices of one process, on logical CPU devices."""

from __future__ import annotations

from rank_jobs import Jobs

JOBS = [("parallel_devices", "python", 1), ("parallel_devices_on_ranks", "mpi", 2)]
LONG_JOBS = [("parallel_devices_kinds", "python", 1), ("parallel_devices_on_ranks", "gloo", 2)]


def test_on_devices(jobs: Jobs, module: str, launcher: str, ranks: int, check: str) -> None:
    jobs.get(module, launcher, ranks).require(check)
