"""Sharded optimizers on real ranks, and what of them needs no ranks."""

from __future__ import annotations

import pytest
from rank_checks import Check
from rank_pool import RankPools

from hvdkit.exchange.sharded.placement import Owners, even_ranges, overlaps

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


@pytest.mark.quick
@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
@pytest.mark.parametrize("sizes", [[1], [5, 1, 0, 12], [1, 1], [100, 3, 3]])
def test_each_element_has_one_owner(ranks: int, sizes: list[int]) -> None:
    ranges = even_ranges(sum(sizes), ranks)
    lengths = [stop - start for start, stop in ranges]
    assert sorted(lengths, reverse=True) == lengths
    assert max(lengths) - min(lengths) <= 1
    covered = [[False] * size for size in sizes]
    for of_rank in ranges:
        for variable, (start, stop) in zip(covered, overlaps(sizes, of_rank), strict=True):
            assert not any(variable[start:stop])
            variable[start:stop] = [True] * (stop - start)
    assert all(all(variable) for variable in covered)


@pytest.mark.quick
def test_variables_are_given_out_by_bytes() -> None:
    owners = Owners(2)
    first = owners.give([5, 4, 3, 3])
    loads = [sum(s for s, o in zip([5, 4, 3, 3], first, strict=True) if o == r) for r in (0, 1)]
    assert sorted(loads) == [7, 8]
    (later,) = owners.give([6])  # to the rank that has less
    assert later == loads.index(7)
