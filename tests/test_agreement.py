"""Ranks that agree, and runs that are equal to the bit."""

from __future__ import annotations

import re

import pytest
from launch import run_ranks
from rank_checks import Check
from rank_pool import RankPools

JOBS = [
    ("agreement", "mpi", 2),
    ("agreement.several_optimizers", "mpi", 2),
    # Which rank is wrong shows with three; the others run with three among the long tests.
    ("agreement.during_training", "mpi", 3),
]
LONG_JOBS = [
    ("agreement", "mpi", 3),
    ("agreement", "gloo", 3),
    ("agreement.several_optimizers", "gloo", 3),
    ("agreement_models", "mpi", 2),
]
_WEIGHTS = re.compile(r"WEIGHTS (\w{64})")


def test_on_ranks(pools: RankPools, check: Check) -> None:
    pools.require(check)


def _weights(launcher: str, mode: str, *seeds: int) -> list[str]:
    command = ["tests/deterministic_job.py", mode, *map(str, seeds)]
    job = run_ranks(launcher, 3, command).require_success()
    hashes = _WEIGHTS.findall(job.output)
    assert len(hashes) == len(seeds), job.describe()
    if mode == "deterministic":
        assert job.output.count("HVDKIT_DETERMINISTIC = 1") == 1, job.describe()
    return hashes


@pytest.mark.long
@pytest.mark.parametrize("launcher", ["mpi", "gloo"])
def test_two_runs_are_equal_to_the_bit(launcher: str) -> None:
    first, other = _weights(launcher, "deterministic", 1, 2)
    (second,) = _weights(launcher, "deterministic", 1)
    assert first == second
    assert first != other, "another seed gives other weights"


@pytest.mark.long
def test_without_the_deterministic_mode_runs_differ() -> None:
    """The test above would see it if timing still mattered."""
    runs = {tuple(_weights("gloo", "default", 1, 2)) for _ in range(4)}
    assert len(runs) > 1
