"""Marks of checks, which pytest's own process reads in the source."""

from __future__ import annotations

from collections.abc import Callable


def long(check: Callable[[], None]) -> Callable[[], None]:
    """A check that `make test-long` runs, and `make test` does not."""
    return check
