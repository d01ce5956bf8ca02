"""Every collective, on real ranks over MPI and Gloo."""

from __future__ import annotations

from rank_jobs import Jobs

JOBS = [("collectives", "mpi", 4), ("collectives", "gloo", 3), ("collectives", "gloo", 1)]
LONG_JOBS = [("collectives", "mpi", 1), ("collectives", "mpi", 2), ("collectives", "gloo", 2)]


def test_on_ranks(jobs: Jobs, module: str, launcher: str, ranks: int, check: str) -> None:
    jobs.get(module, launcher, ranks).require(check)
