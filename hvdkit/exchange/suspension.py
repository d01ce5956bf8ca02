"""Steps that are traced and never run leave gradients as they are."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

_suspended: contextvars.ContextVar[bool] = contextvars.ContextVar(
    "hvdkit_without_reduction", default=False
)


@contextlib.contextmanager
def without_reduction() -> Iterator[None]:
    """Inside, nothing is reduced, and the ranks are not compared: not all of them may be here."""
    token = _suspended.set(True)
    try:
        yield
    finally:
        _suspended.reset(token)


def is_suspended() -> bool:
    """Whether nothing is reduced now."""
    return _suspended.get()
