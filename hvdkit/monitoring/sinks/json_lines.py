"""Figures in a file, for programs."""

from __future__ import annotations

import os
from pathlib import Path

from hvdkit.errors import HvdkitError
from hvdkit.monitoring.sample import Alarm, Job, Sample
from hvdkit.monitoring.sinks.lines import FILE, End, Event, to_line


class JsonLines:
    """A line of JSON for each sample, in FOLDER/monitor.jsonl.

    Each line is an object with a "type" ("job", "sample", "alarm" or "end"), the "time" in seconds
    since 1970, and the attributes of `hvd.monitoring.Job`, `Sample` or `Alarm`. What is NaN or
    infinite is null. A line is in the file as soon as it is known. A file that is there goes on:
    another `fit`, also one of a job that was started again, begins with a "job".

    `hvdkit top FOLDER` shows such a file on another terminal, `hvd.monitoring.read_lines` reads it.

    Args:
        folder: it is made if it is missing.

    Raises:
        HvdkitError: on every rank, before the first step: the folder can't be made, or there is no
            writing in it.

    Example:
        >>> monitor = hvd.callbacks.Monitor(sinks=[hvd.monitoring.JsonLines("logs")])
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / FILE
        self._file = -1

    def begin(self, job: Job) -> None:
        """Open the file."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise HvdkitError(
                f"hvd.monitoring.JsonLines can't write {self.path}: {error.strerror}. "
                "Give it a folder that rank 0 may write to."
            ) from error
        self._close_cut_line()
        self._write(job)

    def log(self, sample: Sample) -> None:
        """Write a line."""
        self._write(sample)

    def alarm(self, alarm: Alarm) -> None:
        """Write a line."""
        self._write(alarm)

    def end(self) -> None:
        """Write the last line, and close the file."""
        if self._file < 0:
            return
        try:
            self._write(End())
        finally:
            os.close(self._file)
            self._file = -1

    def _write(self, event: Event) -> None:
        data = to_line(event).encode()
        while data:  # a disk that fills takes a part first, and then says so
            data = data[os.write(self._file, data) :]

    def _close_cut_line(self) -> None:
        """End a line that a job left when it was killed, or when the disk was full."""
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")
