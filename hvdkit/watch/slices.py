"""What a rank did from when to when, and what hvdkit's own Python notes of it for a trace."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

CHECKPOINTS = "checkpoints and pauses"
COLLECTIVES = "collectives"
STAGE = "pipeline stage"


class Slice(NamedTuple):
    """One thing that a rank did.

    Attributes:
        track: among what it is shown, such as "collectives".
        name: what it is.
        begin: in seconds since 1970.
        end: in seconds since 1970.
        details: more about it by name, such as the bytes.
        inside: what it consists of, in its order.
    """

    track: str
    name: str
    begin: float
    end: float
    details: Mapping[str, Any] = {}
    inside: tuple[Slice, ...] = ()


class Notes:
    """Where Python's own slices go, while anybody keeps them; from any thread."""

    def __init__(self) -> None:
        self._kept: list[list[Slice]] = []
        self._open: dict[object, tuple[str, str, float]] = {}

    @contextlib.contextmanager
    def kept(self) -> Iterator[list[Slice]]:
        """A list that gets what is noted while inside; in the end also what then goes on."""
        found: list[Slice] = []
        self._kept = [*self._kept, found]
        try:
            yield found
        finally:
            self._kept = [other for other in self._kept if other is not found]
            for track, name, begin in list(self._open.values()):
                found.append(Slice(track, name, begin, time.time(), {"goes on": True}))

    def add(self, slice_: Slice) -> None:
        """Note it, if anybody keeps it."""
        for found in self._kept:
            found.append(slice_)

    @contextlib.contextmanager
    def times(self, track: str, name: str) -> Iterator[None]:
        """Note the time that the block takes."""
        begin, key = time.time(), object()
        self._open[key] = (track, name, begin)
        try:
            yield
        finally:
            del self._open[key]
            self.add(Slice(track, name, begin, time.time()))


notes = Notes()
