"""What ranks beside rank 0 have to say: hvdkit's message about a job that failed, and its notes."""

from __future__ import annotations

import re

_BLOCK_BEGINS = re.compile(rb"=+ hvdkit: the job failed =+")
_BLOCK_ENDS = re.compile(rb"=+")
_NOTE = b"hvdkit: "
# No message has longer lines: what is after that is not looked at.
_LONGEST_LINE = 2**16


class Sayings:
    """Finds them in the standard error of a rank."""

    def __init__(self) -> None:
        self._rest = b""
        self._block: list[bytes] | None = None

    def found(self, data: bytes) -> list[bytes]:
        """The messages that the next bytes complete: whole blocks, and notes of a line."""
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[:_LONGEST_LINE]
        return [saying for line in lines if (saying := self._added(line)) is not None]

    def _added(self, line: bytes) -> bytes | None:
        if self._block is None:
            if _BLOCK_BEGINS.fullmatch(line):
                self._block = [line]
                return None
            return line + b"\n" if line.startswith(_NOTE) else None
        self._block.append(line)
        if not _BLOCK_ENDS.fullmatch(line):
            return None
        block, self._block = b"\n".join(self._block) + b"\n", None
        return block


def is_block(saying: bytes) -> bool:
    """Whether this is the message of a job that failed."""
    return _BLOCK_BEGINS.match(saying) is not None
