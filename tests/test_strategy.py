"""hvd.strategy in one process with two local devices, and on ranks."""

from __future__ import annotations

from rank_jobs import Jobs

JOBS = [("strategies", "python", 1), ("strategies", "mpi", 2)]


def test_on_ranks(jobs: Jobs, module: str, launcher: str, ranks: int, check: str) -> None:
    jobs.get(module, launcher, ranks).require(check)
