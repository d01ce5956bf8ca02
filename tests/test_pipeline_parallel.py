"""One model over a pipeline of ranks, beside the unsplit model in one process."""

from __future__ import annotations

from rank_checks import Check
from rank_pool import RankPools

JOBS = [("pipeline_parallel", "mpi", 2)]
LONG_JOBS = [
    ("pipeline_models", "mpi", 2),
    ("pipeline_models", "mpi", 4),
    ("pipeline_parallel", "mpi", 4),
    ("pipeline_parallel", "mpi", 1),
    ("pipelines_over_data", "mpi", 4),
]


def test_on_ranks(pools: RankPools, check: Check) -> None:
    pools.require(check)
