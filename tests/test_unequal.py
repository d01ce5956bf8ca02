"""Unequal shares of the rows: how they are dealt, measured and changed, and on real ranks."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rank_checks import Check
from rank_pool import RankPools

from hvdkit.data.measured import MeasuredShares, Place
from hvdkit.data.shares import EQUAL, Deal, FixedShares, apportioned
from hvdkit.data.speeds import (
    Measured,
    besides_seconds,
    described,
    own_seconds,
    problem_with,
    weights_worth_a_change,
)
from hvdkit.watch.moments import Moments, Span

JOBS = [("unequal", "mpi", 2)]
LONG_JOBS = [
    ("unequal", "gloo", 3),
    ("unequal", "mpi", 1),
    ("unequal_meshes", "mpi", 4),
    ("unequal_replicas", "mpi", 2),
]


def test_on_ranks(pools: RankPools, check: Check) -> None:
    pools.require(check)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("weights", "rows", "counts"),
    [
        ([2, 1], 64, (43, 21)),
        ([1, 1, 1], 10, (4, 3, 3)),
        ([5, 3, 1], 9, (5, 3, 1)),
        ([1000, 1], 8, (7, 1)),
        ([1e300, 1e-300, 1], 6, (4, 1, 1)),
        ([0.1, 0.2], 3, (1, 2)),
        ([7], 5, (5,)),
        ([1, 1000, 1, 1], 4, (1, 1, 1, 1)),
    ],
)
def test_rows_in_proportion(weights: Sequence[float], rows: int, counts: tuple[int, ...]) -> None:
    assert apportioned(weights, rows) == counts


@pytest.mark.quick
def test_every_row_has_one_owner_however_many_there_are() -> None:
    drawn = random.Random(1)
    for _ in range(100):
        size = drawn.randint(1, 6)
        rows = drawn.randint(size, 40)
        deal = Deal(apportioned([drawn.uniform(0.01, 9) for _ in range(size)], rows))
        for there in range(2 * rows + 3):
            own = [deal.own(rank, there) for rank in range(size)]
            assert sorted(np.concatenate(own).tolist()) == list(range(there))
            for rank, numbers in enumerate(own):
                assert deal.first(rank, len(numbers)).tolist() == numbers.tolist()
                exact = there * deal.counts[rank] / rows
                assert abs(len(numbers) - exact) < size, (deal.counts, there)
        assert tuple(len(deal.own(rank, rows)) for rank in range(size)) == deal.counts


@pytest.mark.quick
def test_equal_shares_are_every_nth_row() -> None:
    for shares in (EQUAL, FixedShares((2.0, 2.0, 2.0))):
        deal = shares.now(3, 12)
        assert [deal.own(rank, 10).tolist() for rank in range(3)] == [
            list(range(rank, 10, 3)) for rank in range(3)
        ]


@pytest.mark.quick
@pytest.mark.parametrize("seed", range(20))
def test_ranks_that_deal_out_at_their_own_pace_change_at_the_same_step(seed: int) -> None:
    """Threads that deal out, some far ahead of others, while the ranks agree on changes."""
    drawn = random.Random(seed)
    ranks, steps, epochs = 3, 60, 3
    shares = [MeasuredShares() for _ in range(ranks)]
    dealt: list[list[tuple[int, ...]]] = [[] for _ in range(ranks)]
    go_on = [threading.Semaphore(0) for _ in range(ranks)]

    def read(rank: int) -> None:
        deals = shares[rank].by_step(2, 1000)
        for step in range(steps):
            go_on[rank].acquire()
            dealt[rank].append(deals(step).counts)

    def some_steps(rank: int) -> None:
        for _ in range(drawn.randint(0, 12)):
            go_on[rank].release()

    for one in shares:
        one.begin()
    expected = None
    for epoch in range(epochs):
        for one in shares:
            one.begin_epoch(epoch)
        threads = [threading.Thread(target=read, args=[rank]) for rank in range(ranks)]
        for thread in threads:
            thread.start()
        for _ in range(2):
            places = []
            for rank in range(ranks):
                some_steps(rank)
                places.append(shares[rank].hold())
                some_steps(rank)
            expected = (drawn.uniform(0.5, 9), 1.0)
            for one in shares:
                one.change(max(places), expected)
        for rank in range(ranks):
            for _ in range(steps):
                go_on[rank].release()
        for thread in threads:
            thread.join(timeout=60)
            assert not thread.is_alive()
    assert dealt[0] == dealt[1] == dealt[2]
    assert len(set(dealt[0])) > 1
    assert {one.weights for one in shares} == {expected}


@pytest.mark.quick
def test_a_rank_waits_at_the_place_it_has_named() -> None:
    shares = MeasuredShares()
    shares.begin()
    deals = shares.by_step(2, 8)
    assert deals(0).counts == (1, 1)
    place = shares.hold()
    reached: list[int] = []

    def read() -> None:
        for step in range(1, place.step + 3):
            reached.append(sum(deals(step).counts))

    thread = threading.Thread(target=read)
    thread.start()
    thread.join(timeout=0.2)
    assert thread.is_alive()
    assert len(reached) == place.step - 1
    shares.change(Place(0, place.step + 1), (3.0, 1.0))
    thread.join(timeout=60)
    assert reached == [2] * place.step + [8, 8]


@pytest.mark.quick
def test_a_training_that_ends_keeps_nobody_waiting() -> None:
    shares = MeasuredShares()
    shares.begin()
    deals = shares.by_step(2, 8)
    shares.hold()
    thread = threading.Thread(target=deals, args=[100])
    thread.start()
    shares.begin()
    thread.join(timeout=60)
    assert not thread.is_alive()


@pytest.mark.quick
@pytest.mark.parametrize(
    ("speeds", "now", "changes"),
    [
        ([2.0, 1.0], None, True),
        ([2.0, 1.0], (2.0, 1.0), False),
        ([2.1, 1.0], (2.0, 1.0), False),
        ([2.0, 1.0], (1.0, 2.0), True),
        ([1.0, 1.04], None, False),
        ([1.0, 1.0], (2.0, 1.0), True),
    ],
)
def test_shares_change_where_it_is_worth_it(
    speeds: list[float], now: tuple[float, ...] | None, changes: bool
) -> None:
    expected = tuple(speeds) if changes else None
    assert weights_worth_a_change(speeds, now, 64) == expected


@pytest.mark.quick
def test_what_a_rank_does_besides_takes_rows_from_it() -> None:
    """Twice as slow in all it does: half of the rows would make it late by what it does besides."""
    weights = weights_worth_a_change([2.0, 1.0], None, 64, besides=[4.0, 8.0])
    assert weights is not None
    fast, slow = apportioned(weights, 64)
    assert abs((4 + fast / 2) - (8 + slow)) <= 1.5
    assert (fast, slow) == (45, 19)
    # One that is late anyway gets the least, and all is well for the others.
    weights = weights_worth_a_change([1.0, 1.0, 1.0], None, 60, besides=[0.0, 0.0, 500.0])
    assert weights is None, "it would not be faster"
    weights = weights_worth_a_change([1.0, 1.0, 1.0], None, 60, besides=[0.0, 0.0, 40.0])
    assert weights is not None
    assert sorted(apportioned(weights, 60)) == [1, 29, 30]


@pytest.mark.quick
def test_measuring_ever_more_steps_comes_near_to_the_best_shares() -> None:
    """Ranks of which one is half as fast, in steps that take more or less by chance."""
    drawn, ideal, rows = random.Random(2), [2.0, 1.0], 64
    best = rows / sum(ideal)
    lost = {"first": [], "later": []}  # type: dict[str, list[float]]
    for _ in range(50):
        ranks, weights, seconds = [Measured() for _ in ideal], None, 0.0
        for step in range(500):
            if weights is not None:
                lost["first" if step < 45 else "later"].append(seconds / best - 1)
            own = [speed * drawn.lognormvariate(0, 0.15) for speed in ideal]
            agree = [one.add(speed) for one, speed in zip(ranks, own, strict=True)]
            assert len(set(agree)) == 1
            if agree[0]:
                speeds = [one.speed or 0.0 for one in ranks]
                changed = weights_worth_a_change(speeds, weights, rows, ranks[0].steps)
                weights = changed or weights
                counts = apportioned(weights or [1.0, 1.0], rows)
                seconds = max(count / speed for count, speed in zip(counts, ideal, strict=True))
                for one in ranks:
                    one.begin_again()
    first, later = (sum(shares) / len(shares) for shares in lost.values())
    assert later < 0.02 < first, (first, later)


@pytest.mark.quick
def test_steps_that_are_measured_before_the_ranks_agree() -> None:
    def places(accumulated: int) -> list[int]:
        measured, found = Measured(accumulated), []
        for step in range(1, 600):
            if measured.add(1.0 + step):
                found.append(step)
                measured.begin_again()
        return found

    assert places(1) == [10, 42, 170, 298, 426, 554]
    assert places(3)[:2] == [2 + 24, 2 + 24 + 96]
    unknown = Measured()
    assert [unknown.add(None) for _ in range(10)] == [False] * 9 + [True]
    assert unknown.speed is None


@pytest.mark.quick
def test_a_batch_too_small_to_be_divided_otherwise_stays_as_it_is() -> None:
    assert weights_worth_a_change([2.0, 1.0], None, 2) is None


@pytest.mark.quick
def test_speeds_that_can_not_be_true() -> None:
    assert problem_with({0: 1.0, 1: 2.0}) is None
    for nonsense in (None, float("nan"), float("inf"), 0.0, -1.0):
        problem = problem_with({0: 1.0, 3: nonsense})
        assert problem == "no speed can be measured of the steps of rank 3"
    problem = problem_with({0: 1.0, 1: 1e12}, "replica")
    assert problem is not None
    assert "1 on replica 0, 1e+12 on replica 1" in problem


@pytest.mark.quick
def test_rows_in_words() -> None:
    assert described({0: 43, 1: 21}, {0: "a", 1: "a"}) == "43 on rank 0, 21 on rank 1"
    several = described({0: 4, 2: 3, 5: 3}, {0: "a", 2: "b", 5: "b"}, "replica")
    assert several == "4 on replica 0 (host a), 3 on replica 2, 5 (host b)"


@pytest.mark.quick
def test_the_time_of_what_it_does_besides() -> None:
    before = replace(_moments(1, 2, (4, 5, False), (2, 3, False)), exchanged=3)
    assert besides_seconds(before, _moments(10, 14)) == 6
    assert besides_seconds(before, _moments(10, 14, (8, 11, False))) == 4
    assert besides_seconds(before, _moments(2, 14)) is None
    assert besides_seconds(_moments(1, 2), _moments(10, 14)) is None
    earlier = replace(_moments(5, 6), exchanged=3)  # as between two meetings of LocalSGD
    assert besides_seconds(earlier, _moments(10, 14)) is None


def _moments(batch: float, gradients: float, *spans: tuple[Any, ...]) -> Moments:
    collectives = [Span("one", begun, done, 8.0, beside) for begun, done, beside in spans]
    return Moments(
        batch=batch,
        batches=1,
        rows=8,
        tokens=0,
        gradients=gradients,
        exchanged=0,
        norms={},
        collectives=collectives,
        sent={},
        spans=[],
    )


@pytest.mark.quick
def test_the_time_of_its_own_computing() -> None:
    assert own_seconds(_moments(10, 14)) == 4
    assert own_seconds(_moments(10, 14, (11, 13, False))) == 2
    # Two at once; one of the step before; one that the backward pass goes on beside.
    spans = [(11, 13, False), (12, 13.5, False), (8, 9, False), (10.5, 14, True)]
    assert own_seconds(_moments(10, 14, *spans)) == 1.5
    assert own_seconds(_moments(10, 14, (13, 20, False), (13, 12, False))) == 3
    for batch, gradients in ((0, 14), (10, 0), (14, 10)):
        assert own_seconds(_moments(batch, gradients)) is None
