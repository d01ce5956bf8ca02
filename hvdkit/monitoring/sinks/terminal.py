"""Figures on the terminal."""

from __future__ import annotations

import sys
from typing import TextIO

from hvdkit.monitoring.sample import Alarm, Job, Sample
from hvdkit.monitoring.sinks import wording

# To the line's beginning, and leave it empty. Keras draws its bar with such codes wherever the
# output goes: below `hvdkit run` a terminal is at the end of a pipe.
_FRESH_LINE = "\r\x1b[2K"


class Terminal:
    """A line for each sample.

    Beside Keras's progress bar (`verbose=1`) each sample takes a line of its own above the bar.

    Args:
        file: where to write; default: the standard output.

    Example:
        >>> monitor = hvd.callbacks.Monitor(sinks=[hvd.monitoring.Terminal()])
    """

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = file
        self._beside_bar = False

    def begin(self, job: Job) -> None:
        """See whether Keras draws a bar."""
        self._beside_bar = self._file is None and job.parameters.get("verbose") in (1, "auto")

    def log(self, sample: Sample) -> None:
        """Print a line."""
        file = self._file or sys.stdout
        fresh = _FRESH_LINE if self._beside_bar else ""
        file.write(f"{fresh}{wording.line(sample)}\n")
        file.flush()

    def alarm(self, alarm: Alarm) -> None:
        """It has been printed."""

    def end(self) -> None:
        """Nothing is to be said any more."""
