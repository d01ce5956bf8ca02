"""Figures of a training, on real ranks; and how they are made, without."""

from __future__ import annotations

import numpy as np
import pytest
from rank_checks import Check
from rank_pool import RankPools

from hvdkit.monitoring.split import seconds_in, split
from hvdkit.monitoring.window import Column, Window
from hvdkit.watch.moments import Moments, Norms, Span

JOBS = [("monitor", "mpi", 2)]
LONG_JOBS = [
    ("monitor", "gloo", 2),
    ("monitor", "mpi", 3),
    ("monitor.figures", "mpi", 1),
    ("monitor_meshes", "mpi", 4),
]


def test_on_ranks(pools: RankPools, check: Check) -> None:
    pools.require(check)


def _moments(*spans: Span, batch: float = 11.0, gradients: float = 15.0) -> Moments:
    return Moments(batch, 0, 0, 0, gradients, 0, {}, spans, {}, ())


@pytest.mark.quick
def test_collectives_beside_the_backward_pass_count_after_it() -> None:
    spans = [
        Span("a", 12.0, 13.0, 0, beside=True),  # hidden
        Span("b", 14.0, 16.0, 0, beside=True),
        Span("c", 15.5, 17.0, 0, beside=True),  # at the same time as the one before
        Span("d", 12.5, 13.5, 0, beside=False),  # of a forward pass, which waits
        Span("e", 18.0, 17.5, 0, beside=False),  # has begun, and is not done
        Span("f", 1.0, 9.0, 0, beside=False),  # of a step long ago
    ]
    assert seconds_in(_moments(*spans), 10.0, 20.0) == 3.0
    parts = split(_moments(*spans), last=10.0, begun=10.5, done=20.0)
    assert parts is not None
    assert parts.data == 0.5
    assert parts.collectives == 3.0
    assert parts.compute == 6.0
    assert parts.rest == 0.5
    assert parts.step == 10.0


@pytest.mark.quick
def test_a_norm_that_is_not_finite_is_not_a_number_once() -> None:
    """What comes after it is as it was."""

    def moments(*norms: Norms) -> Moments:
        return Moments(0, 0, 0, 0, 0, 0, dict(enumerate(norms)), (), {}, ())

    def norm(before: Moments, after: Moments) -> float:
        window = Window(before)
        window.add(1, after, 1.0, 1.0, 2.0)
        return float(window.row({}, {})[Column.SQUARED_NORM])

    at = [
        moments(Norms(8.0, 2, 0), Norms(1.0, 1, 0)),
        moments(Norms(12.0, 3, 0), Norms(3.0, 2, 0)),
        moments(Norms(12.0, 3, 1), Norms(4.0, 3, 0)),
        moments(Norms(15.0, 4, 1), Norms(5.0, 4, 0)),
    ]
    assert norm(at[0], at[1]) == 4.0 + 2.0
    assert np.isnan(norm(at[1], at[2]))
    assert norm(at[2], at[3]) == 3.0 + 1.0


@pytest.mark.quick
def test_a_step_whose_batch_was_not_noted_is_not_split() -> None:
    assert split(_moments(batch=3.0), last=10.0, begun=10.5, done=20.0) is None


@pytest.mark.quick
def test_random_steps_add_up() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        last = 100.0
        begun, batch, gradients, done = last + np.cumsum(rng.uniform(0.1, 1, 4))
        spans = []
        for beside in (True, False):
            for _ in range(3):
                begin = rng.uniform(batch, done)
                spans.append(Span("x", begin, rng.uniform(begin, done), 0, beside))
        moments = _moments(*spans, batch=batch, gradients=gradients)
        parts = split(moments, last, begun, done)
        assert parts is not None
        total = parts.data + parts.collectives + parts.compute + parts.rest
        np.testing.assert_allclose(total, parts.step)
