"""End the launcher of a job that has failed, unless it ends by itself: `SECONDS PIDFD...`.

A script of its own, since it outlives the rank that starts it; see `launcher.py`.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Sequence


def end_if_it_waits(seconds: float, pidfds: Sequence[int]) -> None:
    """Wait for the processes to end; after some seconds, kill those that have not.

    Args:
        seconds: how long to wait.
        pidfds: the processes. What they have started, such as ssh to other hosts, ends with them.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    end = time.monotonic() + seconds
    left = set(pidfds)
    poll = select.poll()
    for pidfd in pidfds:
        poll.register(pidfd, select.POLLIN)
    while left and (rest := end - time.monotonic()) > 0:
        for pidfd, _ in poll.poll(1000 * rest):
            poll.unregister(pidfd)
            left.discard(pidfd)
    pids = {_pid(pidfd) for pidfd in left}
    started = _children(pids) - pids - {os.getpid()}
    # First who would take the end of the others for an ordinary one.
    for pidfd in left:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    for pid in started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _pid(pidfd: int) -> int:
    with open(f"/proc/self/fdinfo/{pidfd}") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pid:"))


def _children(parents: set[int]) -> set[int]:
    return {
        int(name) for name in os.listdir("/proc") if name.isdigit() and _parent(name) in parents
    }


def _parent(pid: str) -> int:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:  # it has ended
        return 0


if __name__ == "__main__":
    end_if_it_waits(float(sys.argv[1]), [int(pidfd) for pidfd in sys.argv[2:]])
