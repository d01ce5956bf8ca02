"""The one message of a job: whoever is first says it."""

from __future__ import annotations

import socket
import threading

from hvdkit.watch.launcher import Launcher
from hvdkit.watch.processes import claim
from hvdkit.watch.report import write


class Printer:
    """Prints for this process, and only if no other process of this host has.

    Args:
        job: what no other job is called.
        launcher: prints where this process no longer can.
    """

    def __init__(self, job: str, launcher: Launcher | None = None) -> None:
        self._job = job
        self._launcher = launcher
        self._held: socket.socket | None = None
        self._lock = threading.Lock()
        self._said = False

    def claim(self) -> bool:
        """Whether this process is the one of its host that speaks; it stays so until it ends."""
        with self._lock:
            if self._held is None:
                self._held = claim(self._job)
            return self._held is not None

    def say(self, text: str) -> None:
        """Print a message, unless there has been one."""
        if self.claim() and not self._said:
            self._said = True
            try:
                write(text)
            except OSError:  # what has read it is gone, and the job has to end all the same
                if self._launcher is not None:
                    self._launcher.say(text)
