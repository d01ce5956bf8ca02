"""One log file for each rank, with all that it prints, and one for the launcher."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from hvdkit_cli.errors import CommandError

DEFAULT = Path("hvdkit-logs")
_TAIL_BYTES = 16384


class Logs:
    """The log files of a job, in a folder of the host that has started it.

    Args:
        folder: where they are; made if it is not there. Files that are there already are
            continued.
        warn: says something to the user.

    Raises:
        CommandError: it can't be written to.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None]) -> None:
        self.folder = folder
        self._warn = warn
        self._broken: set[str] = set()
        self._files: dict[str, BinaryIO] = {}
        self._heading = ""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(13, "Permission denied")
        except OSError as error:
            raise CommandError(
                f"The logs can't be written to {folder}: {error.strerror}.",
                "name another folder with --log-dir",
            ) from error

    def begin(self, start: int) -> None:
        """What is written from now on belongs to another start of the job."""
        self.close()
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        again = f", start {start + 1}" if start else ""
        self._heading = f"==== hvdkit run, {stamp}{again} ====\n"

    def path(self, name: str) -> Path:
        """The file of a rank, such as "rank0", or of "launcher"."""
        return self.folder / f"{name}.log"

    def write(self, name: str, data: bytes) -> None:
        """Add to a log. A disk that is full ends the log, and not the training; it is said once."""
        if name in self._broken:
            return
        try:
            if name not in self._files:
                self._files[name] = self.path(name).open("ab", buffering=0)
                self._files[name].write(self._heading.encode())
            self._files[name].write(data)
        except OSError as error:
            self._broken.add(name)
            self._warn(f"{self.path(name)} ends here: {error.strerror}; the job goes on.")

    def tail(self, name: str, lines: int) -> list[str]:
        """The last lines of this start in a log; empty if there are none."""
        if name not in self._files:
            return []
        try:
            with self.path(name).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
                text = file.read().decode(errors="replace")
        except OSError as error:
            self._warn(f"{self.path(name)} can't be read any more: {error.strerror}.")
            return []
        own = text.rpartition(self._heading)[2]
        return own.splitlines()[-lines:]

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
        self._files = {}


def default_folder() -> Path:
    """A folder for one job, below the working folder."""
    return DEFAULT / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
