"""What comes to the terminal: all of rank 0, and of the others what they have to say."""

from __future__ import annotations

import os
import select
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Protocol

from hvdkit_cli.run.noise import NoiseFilter
from hvdkit_cli.run.sayings import Sayings, is_block

OUT_FD, ERR_FD = 1, 2
# Rank 0 may be about to say the same.
_PATIENCE_SECONDS = 1.0
_HELD_SECONDS = 0.3
# A pipe that has room for anything has room for these.
_WRITE_BYTES = select.PIPE_BUF
_WAIT_SECONDS = 0.2
# How long a reader that has stopped is waited for when the job is told to end.
_STALLED_SECONDS = 2.0
# Lines that are longer are shown in pieces.
_LONGEST_LINE = 2**16


class Terminal:
    """This process's standard output and error, byte by byte.

    Attributes:
        is_told_to_end: whether nobody may wait any more for a reader that has stopped.
    """

    def __init__(self) -> None:
        self.is_told_to_end: Callable[[], bool] = lambda: False
        self._is_fresh = True
        self._is_stalled = False

    def write(self, fd: int, data: bytes) -> None:
        """Write bytes; where nobody reads any more they are in the logs only."""
        if not data:
            return
        self._is_fresh = data.endswith(b"\n")
        rest = memoryview(data)
        try:
            while rest and self._has_room(fd):
                rest = rest[_written(fd, rest[:_WRITE_BYTES]) :]
        except OSError:
            return  # such as `hvdkit run ... | head`, or a terminal that was closed

    def _has_room(self, fd: int) -> bool:
        """Wait until somebody reads; False if nobody does, and the job has to end."""
        stopped = time.monotonic()
        while not select.select([], [fd], [], 0 if self._is_stalled else _WAIT_SECONDS)[1]:
            late = self._is_stalled or time.monotonic() - stopped > _STALLED_SECONDS
            if late and self.is_told_to_end():
                self._is_stalled = True
                return False
        self._is_stalled = False
        return True

    def say(self, text: str) -> None:
        """Say something on lines of its own."""
        begin = "" if self._is_fresh else "\n"
        self.write(ERR_FD, f"{begin}{text}\n".encode(errors="surrogateescape"))


class Screen(Protocol):
    """What shows the ranks' output; a rank is named by its log.

    Attributes:
        leader: the rank whose output is shown whole.
    """

    leader: str

    def printed(self, rank: str, data: bytes, *, is_error: bool) -> None:
        """A rank has printed something."""

    def look(self) -> None:
        """Time has passed."""

    def close(self) -> bool:
        """The ranks have ended; whether one of them has shown why the job failed."""


class Quiet:
    """All of one rank, and of the others what they have to say, once.

    Args:
        terminal: where it goes.
        filters: whether TensorFlow's start-up log is left out.
    """

    def __init__(self, terminal: Terminal, *, filters: bool) -> None:
        self.leader = "rank0"
        self._terminal = terminal
        self._filter = NoiseFilter() if filters else None
        self._filtered_at = 0.0
        self._sayings: dict[str, Sayings] = defaultdict(Sayings)
        self._waiting: list[tuple[float, bytes]] = []
        self._said: set[bytes] = set()
        self._has_block = False

    def printed(self, rank: str, data: bytes, *, is_error: bool) -> None:
        """A rank has printed something."""
        found = self._sayings[rank].found(data) if is_error else []
        if rank != self.leader:
            self._waiting += [(time.monotonic(), saying) for saying in found]
            return
        self._said.update(found)
        self._has_block |= any(map(is_block, found))
        if is_error and self._filter is not None:
            data = self._filter.passed(data)
            self._filtered_at = time.monotonic()
        self._terminal.write(ERR_FD if is_error else OUT_FD, data)

    def look(self) -> None:
        """Show what has been held back for long enough."""
        now = time.monotonic()
        if self._filter is not None and now - self._filtered_at > _HELD_SECONDS:
            self._terminal.write(ERR_FD, self._filter.held())
        while self._waiting and now - self._waiting[0][0] > _PATIENCE_SECONDS:
            self._show(self._waiting.pop(0)[1])

    def close(self) -> bool:
        """Show what is held back."""
        if self._filter is not None:
            self._terminal.write(ERR_FD, self._filter.held())
        for _, saying in self._waiting:
            self._show(saying)
        self._waiting = []
        return self._has_block

    def _show(self, saying: bytes) -> None:
        if saying in self._said or (is_block(saying) and self._has_block):
            return
        self._said.add(saying)
        self._has_block |= is_block(saying)
        self._terminal.say(saying.decode(errors="replace").rstrip("\n"))


class Everything:
    """The lines of all ranks, each with its rank before it.

    Args:
        terminal: where it goes.
    """

    def __init__(self, terminal: Terminal) -> None:
        self.leader = ""
        self._terminal = terminal
        self._rests: dict[tuple[str, bool], bytes] = {}

    def printed(self, rank: str, data: bytes, *, is_error: bool) -> None:
        """A rank has printed something."""
        *lines, rest = (self._rests.get((rank, is_error), b"") + data).split(b"\n")
        if len(rest) > _LONGEST_LINE:
            lines, rest = [*lines, rest], b""
        self._rests[rank, is_error] = rest
        text = b"".join(_with_rank(rank, line) for line in lines)
        self._terminal.write(ERR_FD if is_error else OUT_FD, text)

    def look(self) -> None:
        """Lines are shown when they are complete."""

    def close(self) -> bool:
        """Show the last lines, those without an end."""
        for (rank, is_error), rest in self._rests.items():
            if rest:
                self._terminal.write(ERR_FD if is_error else OUT_FD, _with_rank(rank, rest))
        self._rests = {}
        return True


def _written(fd: int, data: memoryview) -> int:
    try:
        return os.write(fd, data)
    except BlockingIOError:  # of a pipe that somebody else has made so
        return 0


def _with_rank(rank: str, line: bytes) -> bytes:
    return b"[%s] %s\n" % (rank.removeprefix("rank").encode(), line)
