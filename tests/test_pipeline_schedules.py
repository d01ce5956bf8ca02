"""Schedules as data: complete, without deadlock, with the idle time and memory of the papers."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hvdkit.parallel import schedules
from hvdkit.schedules.gantt import draw
from hvdkit.schedules.schedules import Backward, Forward
from hvdkit.schedules.simulation import simulate, validate

pytestmark = pytest.mark.quick

ALL = [
    schedules.GPipe(),
    schedules.OneForwardOneBackward(),
    schedules.Interleaved(2),
    schedules.Interleaved(3),
]
SIZES = [(stages, micro) for stages in range(1, 8) for micro in range(1, 18)]


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_every_plan_is_complete_and_ends(schedule: schedules.Schedule) -> None:
    possible = [size for size in SIZES if schedule.problem(*size) is None]
    assert len(possible) > 70
    for stages, micro_batches in possible:
        plan = schedule.plan(stages, micro_batches)
        assert len(plan) == stages
        validate(plan, micro_batches, schedule.chunks)


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_simulated_idle_time_is_the_theoretical(schedule: schedules.Schedule) -> None:
    for stages, micro_batches in SIZES:
        if micro_batches % stages:
            continue
        plan = schedule.plan(stages, micro_batches)
        timeline = simulate(plan, forward=1.0, backward=2.0, chunks=schedule.chunks)
        expected = schedules.bubble(schedule, stages, micro_batches)
        assert timeline.bubble == pytest.approx(expected)
        assert timeline.kind == "simulated"
    if schedule.chunks == 1:
        assert schedules.bubble(schedule, 4, 8) == pytest.approx(3 / 11)


def test_micro_batches_in_flight() -> None:
    for stages, micro_batches in SIZES:
        plan = schedules.GPipe().plan(stages, micro_batches)
        assert [schedules.in_flight(actions) for actions in plan] == [micro_batches] * stages
        plan = schedules.OneForwardOneBackward().plan(stages, micro_batches)
        assert [schedules.in_flight(actions) for actions in plan] == [
            min(micro_batches, stages - stage) for stage in range(stages)
        ]
    # (chunks - 1) * stages + 2 * (stages - 1 - stage) + 1: arXiv 2104.04473, section 2.2.
    plan = schedules.Interleaved(2).plan(4, 16)
    assert [schedules.in_flight(actions) for actions in plan] == [11, 9, 7, 5]


def test_as_text() -> None:
    text = schedules.as_text(schedules.OneForwardOneBackward(), stages=2, micro_batches=3)
    assert text == "stage 0: F0 F1 B0 F2 B1 B2\nstage 1: F0 B0 F1 B1 F2 B2"
    text = schedules.as_text(schedules.Interleaved(2), stages=2, micro_batches=2)
    assert text.splitlines()[0] == "stage 0: F0 F1 F0.1 F1.1 B0.1 B1.1 B0 B1"


def test_transfers_take_time() -> None:
    plan = schedules.OneForwardOneBackward().plan(2, 1)
    assert simulate(plan, forward=1, backward=2).duration == pytest.approx(6)
    assert simulate(plan, forward=1, backward=2, transfer=0.5).duration == pytest.approx(7)


def test_plans_that_can_not_run_are_refused() -> None:
    forward, backward = Forward(0), Backward(0)
    with pytest.raises(ValueError, match="stage 1 does not run each of 1 micro-batches"):
        validate([[forward, backward], [forward]], 1)
    with pytest.raises(ValueError, match="stage 0 runs B0 before F0"):
        validate([[backward, forward]], 1)
    swapped = [[Forward(0), Backward(0), Forward(1), Backward(1)]]
    swapped.append([Forward(1), Backward(1), Forward(0), Backward(0)])
    with pytest.raises(ValueError, match="without end: stage 0 for the input of B0; stage 1"):
        validate(swapped, 2)


@pytest.mark.parametrize(
    ("schedule", "stages", "micro_batches", "problem"),
    [
        (schedules.GPipe(), 2, 0, "no pipeline of 2 stages and 0 micro-batches"),
        (schedules.Interleaved(2), 2, 7, "7 micro-batches over 2 stages in 3 rounds"),
    ],
    ids=["none", "rounds"],
)
def test_numbers_that_do_not_fit(
    schedule: schedules.Schedule, stages: int, micro_batches: int, problem: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        schedule.plan(stages, micro_batches)


@pytest.mark.parametrize("chunks", [0, 1, 2.0, True])
def test_chunks_are_integers_above_1(chunks: object) -> None:
    with pytest.raises(ValueError, match="integer number of chunks above 1"):
        schedules.Interleaved(chunks)  # type: ignore[arg-type]


def test_fewer_micro_batches_where_there_are_fewer_rows() -> None:
    assert schedules.fitting(schedules.Interleaved(2), stages=4, micro_batches=11) == 10
    assert schedules.fitting(schedules.GPipe(), stages=4, micro_batches=3) == 3


@pytest.mark.parametrize("kind", ["simulated", "measured"])
def test_drawn_timelines_say_what_they_are(tmp_path: Path, kind: str) -> None:
    timeline = simulate(schedules.Interleaved(2).plan(2, 4), chunks=2)
    draw(replace(timeline, kind=kind), tmp_path / "timeline.png")
    png = (tmp_path / "timeline.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert f"Title\0{kind}; stages idle {timeline.bubble:.1%} of the time".encode() in png


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        draw(simulate(schedules.GPipe().plan(1, 1)), tmp_path / "timeline.png")
