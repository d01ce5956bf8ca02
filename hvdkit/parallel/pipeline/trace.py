"""Measuring when a stage does what."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from hvdkit.parallel.pipeline.actions import Action


class Clock:
    """Notes when actions begin and end, while it is on.

    Attributes:
        on: whether it notes anything.
        noted: the action, its begin and its end, in seconds of this rank's clock.
    """

    def __init__(self) -> None:
        self.on = False
        self.noted: list[tuple[Action, float, float]] = []

    @contextlib.contextmanager
    def times(self, action: Action) -> Iterator[None]:
        """Note the time that the block takes."""
        begin = time.monotonic()
        yield
        if self.on:
            self.noted.append((action, begin, time.monotonic()))
