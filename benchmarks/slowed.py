"""Make a process slower: it is stopped and goes on in turns, with all its threads.

    python benchmarks/slowed.py PID SHARE

A process that slows itself does so by `with slowed(SHARE)`. It runs for SHARE of the time, in turns
of `_PERIOD` seconds, as on a machine that is as much slower. It goes on when this program ends,
which it does when its input ends.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

# Short beside a step, and long beside what it takes to send a signal.
_PERIOD = 0.01


@contextlib.contextmanager
def slowed(share: float) -> Iterator[None]:
    """While inside, this process runs for a share of the time."""
    if share == 1:
        yield
        return
    command = [sys.executable, __file__, str(os.getpid()), str(share)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as helper:
        yield
        assert helper.stdin is not None
        helper.stdin.close()


def main(pid: int, share: float) -> None:
    """Stop the process again and again."""
    turn = time.monotonic()
    try:
        while not select.select([sys.stdin], [], [], 0)[0]:
            _wait_until(turn + share * _PERIOD)
            os.kill(pid, signal.SIGSTOP)
            turn += _PERIOD
            _wait_until(turn)
            os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return
    finally:
        if os.path.exists(f"/proc/{pid}"):
            os.kill(pid, signal.SIGCONT)


def _wait_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
