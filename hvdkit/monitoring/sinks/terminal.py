"""Figures on the terminal."""

from __future__ import annotations

import sys
from typing import TextIO

from hvdkit.monitoring.sample import Alarm, Job, Sample
from hvdkit.monitoring.sinks import wording

# To the line's beginning, and leave it empty: Keras's progress bar may stand there.
_FRESH_LINE = "\r\x1b[2K"


class Terminal:
    """A line for each sample.

    Beside Keras's progress bar (`verbose=1`) each sample takes a line of its own above the bar.
    Where the output is a file, the bar leaves no line to write on: use `verbose=2` or `verbose=0`
    there.

    Args:
        file: where to write; default: the standard output.

    Example:
        >>> monitor = hvd.callbacks.Monitor(sinks=[hvd.monitoring.Terminal()])
    """

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = file

    def begin(self, job: Job) -> None:
        """Nothing is to be said yet."""

    def log(self, sample: Sample) -> None:
        """Print a line."""
        file = self._file or sys.stdout
        fresh = _FRESH_LINE if file.isatty() else ""
        file.write(f"{fresh}{wording.line(sample)}\n")
        file.flush()

    def alarm(self, alarm: Alarm) -> None:
        """It has been printed."""

    def end(self) -> None:
        """Nothing is to be said any more."""
