"""A rank that trains by itself for a while: nothing around its training asks the others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from hvdkit.engine.native import ProcessSet

_own: ProcessSet | None = None


@contextlib.contextmanager
def alone(own: ProcessSet) -> Iterator[None]:
    """While inside, `several_ranks()` is False, and "all ranks" of a training are this one.

    Args:
        own: the process set of this rank only.
    """
    global _own
    before, _own = _own, own
    try:
        yield
    finally:
        _own = before


def own_ranks() -> ProcessSet | None:
    """The process set of this rank only, while it is `alone`; else None."""
    return _own
