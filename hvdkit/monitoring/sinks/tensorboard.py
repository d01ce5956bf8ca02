"""Figures for TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hvdkit.errors import HvdkitError
from hvdkit.monitoring.sample import Alarm, Job, Sample
from hvdkit.monitoring.sinks.installed import require

if TYPE_CHECKING:
    from hvdkit.monitoring.sinks.tensorboard_file import EventFile


class TensorBoard:
    """Scalars for TensorBoard, over the steps of the training.

    Figures of the job are under "job", those of each rank, in jobs of up to 64, under "rank 0" and
    so on, what `fit` logs at the end of an epoch under "epoch", the bytes of each collective under
    "sent bytes"; alarms and what the training was started with are texts. Keras's own callback
    `TensorBoard` has the graph, histograms and profiles; both may write below one folder.

    Needs `pip install 'hvdkit[tensorboard]'`.

    Args:
        folder: it is made if it is missing. Each `fit` adds a file.

    Raises:
        InstallationError: TensorBoard is missing.
        HvdkitError: on every rank, before the first step: the folder can't be made, or there is no
            writing in it.

    Example:
        >>> monitor = hvd.callbacks.Monitor(sinks=[hvd.monitoring.TensorBoard("logs/run1")])
    """

    def __init__(self, folder: str | Path) -> None:
        require("tensorboard", "tensorboard", "TensorBoard")
        self._folder = Path(folder)
        self._events: EventFile | None = None

    def begin(self, job: Job) -> None:
        """Make a file."""
        from hvdkit.monitoring.sinks.tensorboard_file import EventFile

        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._events = EventFile(self._folder)
        except OSError as error:
            raise HvdkitError(
                f"hvd.monitoring.TensorBoard can't write in {self._folder}: {error.strerror}. "
                "Give it a folder that rank 0 may write to."
            ) from error
        self._events.begin(job)

    def log(self, sample: Sample) -> None:
        """Write scalars."""
        self._file().log(sample)

    def alarm(self, alarm: Alarm) -> None:
        """Write a text."""
        self._file().alarm(alarm)

    def end(self) -> None:
        """Close the file."""
        if self._events is not None:
            events, self._events = self._events, None
            events.end()

    def _file(self) -> EventFile:
        assert self._events is not None, "begin comes first"
        return self._events
