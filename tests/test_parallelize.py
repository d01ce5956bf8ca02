"""Ordinary models that are divided over ranks by themselves."""

from __future__ import annotations

import pytest
from rank_checks import Check
from rank_pool import RankPools

from hvdkit.parallel.automatic.choice import Job, Needs, choose
from hvdkit.planner.transformer import Degrees

JOBS = [("parallelize", "mpi", 2)]
LONG_JOBS = [("parallelize_meshes", "mpi", 4)]


def test_on_ranks(pools: RankPools, check: Check) -> None:
    pools.require(check)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("limit", "degrees", "sharded"),
    [
        (120, Degrees(data=4), False),
        (90, Degrees(data=4), True),
        (72, Degrees(data=2, tensor=2), False),
        (55, Degrees(data=2, pipeline=2), False),
        (33, Degrees(pipeline=2, tensor=2), False),
    ],
)
def test_the_first_mesh_that_fits(limit: float, degrees: Degrees, sharded: bool) -> None:
    needs = Needs(weights=60, slots=40, activations=5, divisible=0.8)
    choice = choose(needs, Job(ranks=4, local_ranks=2, limit=limit, can_send=True))
    assert (choice.degrees, choice.sharded) == (degrees, sharded)
    assert needs.on(degrees, sharded) <= limit
    assert f"{limit} bytes" in choice.reason


@pytest.mark.quick
def test_no_mesh_fits() -> None:
    needs = Needs(weights=60, slots=40, activations=5, divisible=0.8)
    with pytest.raises(ValueError, match=r"fits on no mesh of 4 ranks.*20 bytes each.*tensor 2"):
        choose(needs, Job(ranks=4, local_ranks=2, limit=20, can_send=True))
    # Without MPI there are no stages, and a tensor group stays inside a host.
    with pytest.raises(ValueError, match="fits on no mesh") as raised:
        choose(needs, Job(ranks=4, local_ranks=2, limit=40, can_send=False))
    assert "pipeline 2" not in str(raised.value)
