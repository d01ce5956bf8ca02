"""Sharded optimizers on real ranks, and with other ranks than they were saved with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from launch import run_ranks
from rank_checks import Check
from rank_pool import RankPools

JOBS = [
    ("sharded_optimizer", "mpi", 2),
    ("sharded_optimizer.slots", "mpi", 3),
]
LONG_JOBS = [
    ("sharded_optimizer", "gloo", 3),
    ("sharded_optimizer.trained", "mpi", 4),
    ("sharded_optimizer.rules", "mpi", 1),
]


def test_on_ranks(pools: RankPools, check: Check) -> None:
    pools.require(check)


def _weights(folder: Path, ranks: int, stage: int, steps: int) -> list[np.ndarray]:
    command = ["tests/sharded_job.py", str(folder), str(stage), str(steps)]
    run_ranks("mpi", ranks, command, forked=True).require_success()
    with np.load(folder / "weights.npz") as weights:
        return [weights[name] for name in weights]


@pytest.mark.long
def test_goes_on_with_any_number_of_ranks(tmp_path: Path) -> None:
    """In the middle of an accumulation: 2, 3, 1 and 2 ranks end like one that was never stopped."""
    expected = _weights(tmp_path / "never", ranks=1, stage=0, steps=11)
    for ranks, stage, steps in ((2, 1, 4), (3, 2, 4), (1, 1, 2), (2, 2, 1)):
        weights = _weights(tmp_path / "stopped", ranks, stage, steps)
    for mine, one in zip(weights, expected, strict=True):
        np.testing.assert_allclose(mine, one, rtol=1e-4, atol=1e-5)
