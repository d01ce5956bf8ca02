"""Models that people really train, in all of hvdkit's ways, beside plain Keras."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from from_registry import installed, listed
from launch import ROOT
from rank_checks import CHECKS, Check
from rank_pool import RankPools

JOBS: list[tuple[str, str, int]] = []
LONG_JOBS = [
    ("real_models.applications", "mpi", 2),
    ("real_models.compressed", "mpi", 2),
    ("real_models.language", "mpi", 2),
    ("real_models.parallelized", "mpi", 2),
    ("real_models.vision", "mpi", 2),
    ("real_models.generative", "mpi", 3),
    ("real_models.tabular", "mpi", 2),
    ("real_models.guides", "mpi", 3),
    ("real_models.datasets", "gloo", 2),
]
REQUIREMENTS = CHECKS / "real_models" / "requirements.txt"


@pytest.fixture(scope="session")
def keras_hub(pytestconfig: pytest.Config) -> Path:
    """A folder with KerasHub, from the package registry once for each list of requirements."""
    return installed(pytestconfig.cache.mkdir("real_models"), listed(REQUIREMENTS))


@pytest.mark.timeout(700)
def test_on_ranks(pools: RankPools, keras_hub: Path, check: Check) -> None:
    folders = [str(ROOT / each) for each in (".", "tests", "tests/lean")]
    env = {"PYTHONPATH": os.pathsep.join([*folders, str(keras_hub)])}
    pools.require(check, env=env, seconds=650)
