"""Data, pipeline and tensor parallelism together, on real ranks."""

from __future__ import annotations

from rank_jobs import Jobs

JOBS = [("meshes", "mpi", 4)]
LONG_JOBS = [("meshes", "mpi", 8), ("meshes_trained", "mpi", 4), ("meshes_trained", "mpi", 8)]


def test_on_ranks(jobs: Jobs, module: str, launcher: str, ranks: int, check: str) -> None:
    jobs.get(module, launcher, ranks).require(check)
