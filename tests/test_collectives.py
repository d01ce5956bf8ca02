"""Every collective, on real ranks over MPI and Gloo."""

from __future__ import annotations

from rank_jobs import Jobs

JOBS = [("collectives", "mpi", 4), ("collectives", "gloo", 3)]
LONG_JOBS = [("collectives", launcher, ranks) for launcher in ("mpi", "gloo") for ranks in (1, 2)]


def test_on_ranks(jobs: Jobs, module: str, launcher: str, ranks: int, check: str) -> None:
    jobs.get(module, launcher, ranks).require(check)
