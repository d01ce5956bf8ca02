"""Checkpoints on real ranks: what takes long."""

from __future__ import annotations

import pytest
from rank_jobs import Jobs

pytestmark = pytest.mark.long

JOBS = [
    ("checkpoints", "gloo", 3),
    ("checkpoints_long", "mpi", 3),
    ("checkpoints_long", "gloo", 3),
]


def test_on_ranks(jobs: Jobs, module: str, launcher: str, ranks: int, check: str) -> None:
    jobs.get(module, launcher, ranks).require(check)
