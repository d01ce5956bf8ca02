"""What TensorFlow logs at its start whatever one does, and how to leave it out of a stream."""

from __future__ import annotations

import re

_HEAD = re.compile(
    rb"(?:\d{4}-\d\d-\d\d \d\d:\d\d:[\d.]+: (?P<old>[IWEF]) "
    rb"|(?P<new>[IWEF])\d{4} \d\d:\d\d:[\d.]+ +\d+ )[\w./-]+\.cc:\d+\] "
)
# Warnings and errors that say nothing about the job.
_KNOWN = re.compile(
    rb"Unable to register cu\w+ (?:plugin )?factory"
    rb"|computation placer already registered"
    rb"|Could not find cuda drivers"
    rb"|Could not find TensorRT"
    rb"|Local rendezvous is aborting with status: OUT_OF_RANGE"
)
# Lines without a head.
_OTHERS = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog\(\) is called"
    rb"|To enable the following instructions: .*rebuild TensorFlow"
)
# How a line begins that may become such a one. TensorFlow writes a line at once, so that all of
# this is there, or nothing.
_BEGINNING = re.compile(
    rb"\d{4}-\d\d-\d\d \d\d:|[IWEF]\d{4} \d\d:|WARNING: All log mess|To enable the follow"
)
_LONGEST_LINE = 2**13


def is_noise(line: bytes) -> bool:
    """Whether a line is TensorFlow's start-up log: its messages below warnings, and known ones."""
    head = _HEAD.match(line)
    if head is None:
        return _OTHERS.match(line) is not None
    level = head["old"] or head["new"]
    return level == b"I" or _KNOWN.search(line) is not None


class NoiseFilter:
    """Leaves the noise out of a stream of bytes, and passes all else on without delay."""

    def __init__(self) -> None:
        self._held = b""
        self._is_inside_line = False

    def passed(self, data: bytes) -> bytes:
        """What is left of the next bytes of the stream; a line that may be noise is held back."""
        *lines, rest = (self._held + data).splitlines(keepends=True) or [b""]
        if rest.endswith((b"\n", b"\r")):
            lines, rest = [*lines, rest], b""
        kept = [line for line in lines if self._is_wanted(line)]
        may_be_noise = len(rest) < _LONGEST_LINE and _BEGINNING.match(rest) is not None
        if rest and not self._is_inside_line and may_be_noise:
            self._held = rest
        else:
            self._held = b""
            kept.append(rest)
            self._is_inside_line |= bool(rest)
        return b"".join(kept)

    def held(self) -> bytes:
        """What is held back, when nothing more comes; it counts as passed on."""
        held, self._held = self._held, b""
        self._is_inside_line |= bool(held)
        return held

    def _is_wanted(self, line: bytes) -> bool:
        continues, self._is_inside_line = self._is_inside_line, False
        return continues or not is_noise(line)
