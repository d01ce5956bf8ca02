"""Bounded staleness without ranks: who may begin a step, and what is applied together."""

from __future__ import annotations

import random

import pytest

from hvdkit.schedules.staleness import Clock, StepsTogether

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_no_worker_begins_a_step_further_ahead_than_it_may(staleness: int) -> None:
    draw = random.Random(staleness)
    clock = Clock(range(4), staleness)
    begun, leads = [0] * 4, set()
    for _ in range(400):
        able = [worker for worker in range(4) if clock.may_begin(worker)]
        assert able, "somebody can always go on: the slowest"
        # The last worker is slow.
        worker = draw.choices(able, [1 if one == 3 else 10 for one in able])[0]
        lead = begun[worker] - min(begun)
        assert lead <= staleness
        leads.add(lead)
        begun[worker] += 1
        clock.tick(worker)
        assert clock.steps(worker) == begun[worker]
        assert clock.slowest == min(begun)
        assert clock.last == [one for one in range(4) if begun[one] == min(begun)]
    assert leads == set(range(staleness + 1))


def test_nobody_waits_without_a_bound() -> None:
    clock = Clock([0, 1], None)
    for _ in range(1000):
        clock.tick(0)
    assert clock.may_begin(0)


def test_nobody_waits_for_a_worker_that_has_left() -> None:
    clock = Clock([4, 7], 1)
    for _ in range(3):
        clock.tick(4)
    assert not clock.may_begin(4)
    clock.leave(7)
    assert clock.may_begin(4)
    assert clock.active == [4]
    clock.leave(4)
    assert clock.active == []
    assert clock.slowest == 0


def test_a_step_is_applied_when_all_have_sent_it_in_the_order_of_the_workers() -> None:
    together: StepsTogether[str] = StepsTogether()
    assert together.take([]) == []
    together.add(2, "c")
    together.add(0, "a")
    assert together.take([0, 1, 2]) == []
    together.add(1, "b")
    assert together.take([0, 1, 2]) == ["a", "b", "c"]
    assert together.take([0, 1, 2]) == []
    together.add(0, "d")
    assert together.take([0]) == ["d"]  # the others have left
