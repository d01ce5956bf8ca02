"""The signals that ask a job to end: Ctrl-C, and those of schedulers."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Any

ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def heard() -> list[signal.Signals]:
    """The signals that mean something to this process: under nohup, not that of a terminal."""
    under_nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [number for number in ASKING if number != signal.SIGHUP or not under_nohup]


class Signals:
    """Takes the signals that come to this process, until it is closed.

    Attributes:
        first: the first of them; None where none has come.
        count: how many have come.
    """

    def __init__(self) -> None:
        self.first: signal.Signals | None = None
        self.count = 0
        self._bell, self._ring = os.pipe()
        os.set_blocking(self._bell, False)
        os.set_blocking(self._ring, False)
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        """Begin to take them."""
        self._before = {number: signal.signal(number, self._on_signal) for number in heard()}
        return self

    def __exit__(self, *_: object) -> None:
        """Give them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._bell)
        os.close(self._ring)

    def fileno(self) -> int:
        """Readable when one has come."""
        return self._bell

    def read(self) -> list[signal.Signals]:
        """Those that have come since the last call."""
        try:
            return [signal.Signals(number) for number in os.read(self._bell, 64)]
        except BlockingIOError:
            return []

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self.first = self.first or signal.Signals(number)
        os.write(self._ring, bytes([number]))
