"""Work that every rank does for itself, and whose errors are those of all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from hvdkit.engine import HvdkitError, raise_everywhere

T = TypeVar("T")


def on_all(work: Callable[[], T]) -> T:
    """What `work` returns, which does not communicate; an error of a rank is one on all."""
    found: T | None = None
    problem: str | None = None
    cause: Exception | None = None
    kind: type[Exception] = ValueError
    try:
        found = work()
    except Exception as error:
        known = isinstance(error, (ValueError, HvdkitError))
        problem = str(error) if known else f"{type(error).__name__}: {error}"
        kind, cause = (HvdkitError if isinstance(error, HvdkitError) else ValueError), error
    try:
        raise_everywhere(problem, kind)
    except (ValueError, HvdkitError) as error:
        raise error from cause
    return cast(T, found)
