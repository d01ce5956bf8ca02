"""Processes of a job that have lost their parents: they become children of this one, and end."""

from __future__ import annotations

import ctypes

import psutil

_PR_SET_CHILD_SUBREAPER = 36
_LIBC = ctypes.CDLL(None)
_GRACE_SECONDS = 2.0


def adopt_orphans() -> None:
    """From now on, what is below this process stays below it, whatever ends in between."""
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_leftovers() -> None:
    """End all processes below this one: politely, then by force."""
    for end in ("terminate", "kill"):
        alive = psutil.Process().children(recursive=True)
        for process in alive:
            try:
                getattr(process, end)()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(alive, timeout=_GRACE_SECONDS)
