"""What hvdkit changes in Keras and TensorFlow: each change a value, made when something needs it.

`import hvdkit` changes nothing. A patch puts a function of hvdkit's, its hook, around one of
theirs; the hook is called with the original first, so it decides whether and how that runs.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

FIT = "fit"
"""The patches of `fit`, `evaluate` and `predict`, which `hvdkit.training` holds."""

_MARK = "_hvdkit_patches"

_lock = threading.RLock()
_installed: list[Patch] = []
_offered: dict[str, Callable[[], None]] = {}


@dataclass(frozen=True)
class Patch:
    """A function of hvdkit's around one of Keras's.

    Attributes:
        owner: the class or module whose function it is.
        name: of the function there.
        hook: called in its place, with the original before the arguments.
        why: what it is for.
    """

    owner: Any
    name: str
    hook: Callable[..., Any]
    why: str

    @property
    def place(self) -> str:
        """Where it is, as in "Optimizer.apply"."""
        return f"{self.owner.__name__.rpartition('.')[2]}.{self.name}"

    def __str__(self) -> str:
        return f"{self.place}: {self.why}"


def install(*patches: Patch) -> bool:
    """Put patches in place, in any thread; those that are there already stay as they are.

    A method is patched where a class has it. Subclasses that override it and call it find the hook
    there, and it is put around once, also if a subclass is patched that inherits the method.

    Args:
        *patches: the patches.

    Returns:
        Whether any of them was not there yet.
    """
    with _lock:
        new = [patch for patch in patches if _put(patch)]
    return bool(new)


def _put(patch: Patch) -> bool:
    original = getattr(patch.owner, patch.name)
    around = getattr(original, _MARK, ())
    if any(other.hook is patch.hook for other in around):
        return False
    hook = patch.hook

    @functools.wraps(original)
    def patched(*args: Any, **kwargs: Any) -> Any:
        return hook(original, *args, **kwargs)

    setattr(patched, _MARK, (*around, patch))
    setattr(patch.owner, patch.name, patched)
    _installed.append(patch)
    return True


def installed() -> list[Patch]:
    """What hvdkit has changed in this process, in the order in which it was needed.

    Example:
        >>> from hvdkit import patches
        >>> for patch in patches.installed():
        ...     print(patch)
    """
    with _lock:
        return list(_installed)


def offer(group: str, install_group: Callable[[], None]) -> None:
    """Say how a group of patches is installed when it is needed.

    A room that needs patches may lie below the one that holds them, and then can't import it.

    Args:
        group: its name, such as `FIT`.
        install_group: installs it; it may be called again.
    """
    _offered[group] = install_group


def need(group: str) -> None:
    """Install a group of patches, if that was not done before.

    Args:
        group: the name that it is offered by.
    """
    _offered[group]()
