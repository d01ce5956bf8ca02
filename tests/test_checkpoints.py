"""Checkpoints on real ranks."""

from __future__ import annotations

from rank_jobs import Jobs

JOBS = [("checkpoints", "mpi", 2)]
LONG_JOBS = [("checkpoints", "mpi", 3)]


def test_on_ranks(jobs: Jobs, module: str, launcher: str, ranks: int, check: str) -> None:
    jobs.get(module, launcher, ranks).require(check)
