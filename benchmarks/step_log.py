"""When the steps of a rank ended, for a job that is paused."""

from __future__ import annotations

import os
import time
from array import array
from pathlib import Path


class StepLog:
    """Notes when each step of a rank ended, for `PausableJob` of jobs.py.

    Args:
        folder: where to write.
        rank: this process's rank.
        warm_up: steps before the rank says that it is warm.
    """

    def __init__(self, folder: str, rank: int, warm_up: int) -> None:
        self._stamps = Path(folder, f"{rank}.steps")
        self._pid = Path(folder, f"{rank}.pid")
        self._left = warm_up

    def step(self) -> None:
        """Note that a step has ended now."""
        with self._stamps.open("ab") as file:
            file.write(array("d", [time.monotonic()]).tobytes())
        self._left -= 1
        if self._left == 0:
            # Renamed when complete, so that nobody reads half a number.
            partial = self._pid.with_suffix(".part")
            partial.write_text(str(os.getpid()))
            partial.rename(self._pid)
