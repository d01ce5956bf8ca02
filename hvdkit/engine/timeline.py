"""Horovod's timeline: what its background thread does, as the first rank sees it."""

from __future__ import annotations

import os

from hvdkit.engine.native import mpi_ops, require_initialized

_VARIABLE = "HOROVOD_TIMELINE"
_DYNAMIC = "DYNAMIC"
# The file that is being written.
_files: list[str] = []


def start_timeline(file_path: str, mark_cycles: bool = False) -> None:
    """Record what Horovod does, as a Chrome trace (open it in Perfetto or chrome://tracing).

    The job has to be started with `HOROVOD_TIMELINE=DYNAMIC` in its environment: Horovod then
    keeps a thread for it that never sleeps, so it is off by default. `hvd.trace` shows this and
    more, of all ranks.

    Args:
        file_path: the JSON file to write, on rank 0.
        mark_cycles: also mark Horovod's cycles.

    Raises:
        NotInitializedError: `init` has not been called.
        ValueError: the job was started without `HOROVOD_TIMELINE=DYNAMIC`.
    """
    require_initialized("hvd.start_timeline()")
    if _VARIABLE not in os.environ:
        raise ValueError(
            "hvd.start_timeline() needs a job that was started with HOROVOD_TIMELINE=DYNAMIC in "
            "its environment (mpirun -x HOROVOD_TIMELINE=DYNAMIC ...)."
        )
    mpi_ops.start_timeline(file_path, mark_cycles=mark_cycles)
    _files[:] = [file_path]


def stop_timeline() -> None:
    """Stop recording and close the file.

    Raises:
        NotInitializedError: `init` has not been called.
    """
    require_initialized("hvd.stop_timeline()")
    mpi_ops.stop_timeline()
    _files.clear()


def timeline_has_ended() -> None:
    """Say that Horovod has ended, and its timeline with it."""
    _files.clear()


def why_no_timeline() -> str | None:
    """Why nobody can start the timeline now, in words; None if one can."""
    if os.environ.get(_VARIABLE) != _DYNAMIC:
        return f"the job was started without {_VARIABLE}={_DYNAMIC} in its environment"
    return f"hvd.start_timeline writes {_files[0]} already" if _files else None
