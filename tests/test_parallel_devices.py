"""One model over the devices of one process, on logical CPU devices."""

from __future__ import annotations

from rank_jobs import Jobs

JOBS = [("parallel_devices", "python", 1)]


def test_on_devices(jobs: Jobs, module: str, launcher: str, ranks: int, check: str) -> None:
    jobs.get(module, launcher, ranks).require(check)
