"""Processes that begin with TensorFlow and Keras imported: see `fork_server.py`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import seconds_spent

_HERE = Path(__file__).parent
_SERVERS = 2


class _Server:
    """A server, which ends with this process."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="hvdkit-")
        self.address = str(Path(self._folder.name, "socket"))
        self._process = subprocess.Popen(
            [sys.executable, str(_HERE / "fork_server.py"), self.address],
            env={**environment, "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def is_safe(self) -> bool:
        """Whether it can be forked; waits until it takes clients."""
        assert self._process.stdout is not None
        said = self._process.stdout.readline().decode().strip()
        if said != "ready":
            seconds_spent.note(f"fork_server.py: {said or 'has ended'}; ranks start slowly")
        return said == "ready"


_servers: dict[str, list[_Server]] = {}


def interpreter(environment: Mapping[str, str]) -> list[str]:
    """What to start in the place of `python` in a job with this environment."""
    path = environment["PYTHONPATH"]
    if path not in _servers:
        started = [_Server(environment) for _ in range(_SERVERS)] if _can_fork() else []
        _servers[path] = started if all(server.is_safe() for server in started) else []
    if not _servers[path]:
        return [sys.executable]
    addresses = ",".join(server.address for server in _servers[path])
    return [sys.executable, "-I", "-S", str(_HERE / "fork_client.py"), addresses]


def _can_fork() -> bool:
    """Whether this is a Linux that tells of the end of processes."""
    return hasattr(os, "pidfd_open") and os.path.isdir("/proc/self/task")
