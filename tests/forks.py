"""Processes that begin with TensorFlow and Keras imported: see `fork_server.py`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

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

    def wait_until_ready(self) -> None:
        """Return when it takes clients."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line == b"ready\n", f"{self._process.args} has ended"


_servers: dict[str, list[_Server]] = {}


def interpreter(environment: Mapping[str, str]) -> list[str]:
    """What to start in the place of `python` in a job with this environment."""
    path = environment["PYTHONPATH"]
    if path not in _servers:
        _servers[path] = [_Server(environment) for _ in range(_SERVERS)]
        for server in _servers[path]:
            server.wait_until_ready()
    addresses = ",".join(server.address for server in _servers[path])
    return [sys.executable, "-I", "-S", str(_HERE / "fork_client.py"), addresses]
