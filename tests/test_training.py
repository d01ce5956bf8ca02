"""Training and callbacks on real ranks."""

from __future__ import annotations

from rank_jobs import Jobs

JOBS = [("training", "gloo", 2), ("callbacks", "mpi", 4)]
LONG_JOBS = [("training", "mpi", 3), ("callbacks", "gloo", 4)]


def test_on_ranks(jobs: Jobs, module: str, launcher: str, ranks: int, check: str) -> None:
    jobs.get(module, launcher, ranks).require(check)
