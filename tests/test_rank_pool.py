"""A check that fails, hangs or dies fails alone, and leaves nothing to the next one."""

from __future__ import annotations

import pytest
from rank_checks import Check, checks_of
from rank_pool import ChecksFailed, RankPools


def _check(name: str, launcher: str, ranks: int) -> Check:
    return next(c for c in checks_of("pool", launcher, ranks) if c.name == f"check_{name}")


@pytest.mark.long
def test_checks_find_ranks_as_they_were_and_fail_alone(pools: RankPools) -> None:
    for name in ("finds_all_as_it_was", "changes_what_it_can", "finds_all_as_it_was"):
        pools.require(_check(name, "mpi", 2))
    with pytest.raises(ChecksFailed, match=r"rank 1: (.*\n)*KeyError: 'mine'"):
        pools.require(_check("fails_on_the_last_rank", "mpi", 2))
    pools.require(_check("finds_all_as_it_was", "mpi", 2))


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "message"),
    [("does_not_end", "within 2 s"), ("is_killed", "and ended")],
)
def test_checks_that_do_not_end_are_errors(pools: RankPools, name: str, message: str) -> None:
    with pytest.raises(ChecksFailed, match=message):
        pools.require(_check(name, "python", 1), seconds=2 if name == "does_not_end" else 60)
    pools.require(_check("finds_all_as_it_was", "python", 1))
