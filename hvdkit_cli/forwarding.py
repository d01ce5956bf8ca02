"""Pass SIGUSR1 on from the launcher to the ranks of this host."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import psutil


def forward_to_ranks(number: signal.Signals = signal.SIGUSR1) -> None:
    """Send the signal on to the ranks below this process, whenever it comes.

    `mpirun` passes it on to its ranks, on all hosts; Gloo's ranks are below the launcher itself on
    its own host. Between them are shells, which the signal would end: only processes that have a
    handler for it get it.
    """

    def forward(_: int, frame: FrameType | None) -> None:
        send_to_listeners(number)

    signal.signal(number, forward)


def send_to_listeners(number: signal.Signals) -> bool:
    """Send a signal to those processes below this one that have a handler for it.

    Returns:
        Whether there was one.
    """
    return _send(psutil.Process(), number)


@contextlib.contextmanager
def shells_replaced() -> Iterator[None]:
    """While inside, a shell that replaces this process is replaced by what it runs.

    Horovod puts `sh -c "mpirun ..."` in the place of its launcher. The shell would end with a
    signal and leave mpirun and its ranks behind.
    """
    execve = os.execve

    def without_shell(path: str, argv: list[str], env: dict[str, str]) -> None:
        if argv[:2] == ["/bin/sh", "-c"]:
            argv = [*argv[:2], f"exec {argv[2]}"]
        execve(path, argv, env)

    os.execve = without_shell  # type: ignore[assignment]
    try:
        yield
    finally:
        os.execve = execve


def _send(process: psutil.Process, number: signal.Signals) -> bool:
    sent = False
    for child in process.children():
        if _catches(child.pid, number):
            os.kill(child.pid, number)
            sent = True
        else:
            sent |= _send(child, number)
    return sent


def _catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal; False if it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)
