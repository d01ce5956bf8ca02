"""The contract of DistributedOptimizer, on real ranks."""

from __future__ import annotations

from rank_jobs import Jobs

JOBS = [("optimizers", "mpi", 2), ("exchanges", "mpi", 2)]
LONG_JOBS = [("optimizers", "gloo", 3), ("exchanges", "gloo", 3)]


def test_on_ranks(jobs: Jobs, module: str, launcher: str, ranks: int, check: str) -> None:
    jobs.get(module, launcher, ranks).require(check)
