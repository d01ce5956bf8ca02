"""Models made smaller, on real ranks."""

from __future__ import annotations

import pytest
from launch import run_ranks
from rank_checks import Check
from rank_pool import RankPools

JOBS = [("compress", "mpi", 2)]
LONG_JOBS = [("compress", "gloo", 3)]


def test_on_ranks(pools: RankPools, check: Check) -> None:
    pools.require(check)


_SCHEDULE = """
from hvdkit.compress import Cubic
import sys
schedule = Cubic(0.8, begin=100, end=1100, every=100, initial=0.2)
assert "tensorflow" not in sys.modules
for step, expected in ((0, 0), (99, 0), (100, 0.2), (199, 0.2), (600, 0.725), (650, 0.725)):
    assert abs(schedule.sparsity_at(step) - expected) < 1e-9, step
assert schedule.sparsity_at(1100) == schedule.sparsity_at(10**6) == 0.8
assert Cubic(0.5, end=0).sparsity_at(0) == 0.5
"""


@pytest.mark.quick
def test_sparsity_is_that_of_the_paper() -> None:
    run_ranks("python", 1, ["-c", _SCHEDULE]).require_success()
