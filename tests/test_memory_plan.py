"""What a rank needs is what is planned, on real ranks."""

from __future__ import annotations

from rank_jobs import Jobs

JOBS = [("memory_plan", "mpi", 2)]
LONG_JOBS = [("memory_plan", "mpi", 4)]


def test_on_ranks(jobs: Jobs, module: str, launcher: str, ranks: int, check: str) -> None:
    jobs.get(module, launcher, ranks).require(check)
