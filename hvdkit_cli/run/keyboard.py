"""What is typed at the terminal, for the launcher, which passes it on to rank 0.

Launchers run in a session of their own, so that Ctrl-C is not for them, and take themselves for
jobs in the background, which may not read from the terminal. So this process reads for them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_READ_BYTES = 4096


class Keyboard:
    """Gives on what is typed, as long as this process is in the foreground.

    Args:
        pipe: the end of a pipe into which it is written.
    """

    def __init__(self, pipe: int) -> None:
        self._pipe: int | None = pipe
        self._unwritten = b""
        os.set_blocking(pipe, False)

    def fileno(self) -> int:
        """For selectors."""
        return 0

    def listens(self) -> bool:
        """Whether something may be read now; in the background it would stop this process."""
        self._write()
        if self._pipe is None or self._unwritten:
            return False
        try:
            return os.tcgetpgrp(0) == os.getpgrp()
        except OSError:  # the terminal is gone
            return False

    def pass_on(self) -> None:
        """Read what has been typed, and give it on."""
        try:
            typed = os.read(0, _READ_BYTES)
        except OSError:  # the terminal is gone
            typed = b""
        if not typed:
            self.close()
        self._unwritten += typed
        self._write()

    def close(self) -> None:
        """Nothing more comes."""
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None

    def _write(self) -> None:
        try:
            if self._pipe is not None and self._unwritten:
                written = os.write(self._pipe, self._unwritten)
                self._unwritten = self._unwritten[written:]
        except BlockingIOError:
            return  # later
        except BrokenPipeError:
            self.close()  # nobody reads any more


@contextmanager
def standard_input() -> Iterator[tuple[int, Keyboard | None]]:
    """The standard input of a launcher, and what writes into it; None where it reads by itself."""
    if not sys.stdin or not os.isatty(0):
        yield 0, None
        return
    read, write = os.pipe()
    keyboard = Keyboard(write)
    try:
        yield read, keyboard
    finally:
        keyboard.close()
        os.close(read)
