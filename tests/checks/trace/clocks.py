"""Clocks that are apart are found to be so."""

from __future__ import annotations

import time

import hvdkit as hvd
from hvdkit.engine import clocks

SECONDS_APART = 1234.5


def check_clocks_that_are_apart() -> None:
    def shifted() -> float:
        return time.monotonic() + SECONDS_APART * hvd.rank()

    machine = clocks.machine
    try:
        clocks.machine = lambda: f"machine {hvd.rank()}"
        found = clocks.clocks_ahead(clock=shifted)
    finally:
        clocks.machine = machine
    assert found[0] == (0.0, 0.0)
    assert len(found) == hvd.size()
    for rank, ahead in enumerate(found):
        # What bounds it is no estimate.
        assert abs(ahead.seconds - SECONDS_APART * rank) <= ahead.uncertainty + 1e-6, found
        assert ahead.uncertainty < SECONDS_APART / 10
    assert hvd.allgather_object(found) == [found] * hvd.size()
    assert clocks.clocks_ahead() == [(0.0, 0.0)] * hvd.size()  # they share one
