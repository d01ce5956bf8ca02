"""The script of a rank, as a child process that does not outlive this one."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
# As long as a dead process is not fetched by its parent, its neighbours can read how it ended.
_READABLE_SECONDS = 0.05


def end_with_parent(number: signal.Signals = signal.SIGKILL) -> None:
    """Let this process, a new child, get a signal when its parent ends, however that ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, int(number))


class Script:
    """A script that runs.

    Args:
        command: the program and its arguments.
        env: its whole environment.

    Raises:
        OSError: it can't be started.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        # A process group of its own, so that what it starts can be ended with it.
        self._process = subprocess.Popen(
            command,
            env=dict(env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            process_group=0,
            preexec_fn=end_with_parent,
        )
        self.pid = self._process.pid

    @property
    def pipes(self) -> tuple[int, int]:
        """What it prints: the file descriptors of its standard output and its standard error."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        return self._process.stdout.fileno(), self._process.stderr.fileno()

    def status(self) -> int | None:
        """Its exit status, or minus the signal that ended it; None while it runs.

        What it has started ends with it.
        """
        if self._process.returncode is None:
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return None
            self.signal(signal.SIGKILL)
            time.sleep(_READABLE_SECONDS)
            self._process.wait()
        return self._process.returncode

    def ask(self) -> bool:
        """Ask it to save and end; returns whether it listens.

        One that does not listen to SIGUSR1 gets SIGTERM.
        """
        from hvdkit_cli.forwarding import send_to_listeners  # psutil takes a while to load

        if send_to_listeners(signal.SIGUSR1) or send_to_listeners(signal.SIGTERM):
            return True
        self.signal(signal.SIGTERM)
        return False

    def signal(self, number: int) -> None:
        """Send a signal to it and to what it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)
