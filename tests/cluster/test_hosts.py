"""The hosts themselves: apart from each other, and what a test does to them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from hosts import Cluster, Host

_HERE = Path(__file__).parent
_KEPT = """
import sys, time
from pathlib import Path
from hosts import hosts
with hosts(1, Path(sys.argv[1])) as (host,):
    print(host._first, flush=True)
    time.sleep(60)
"""


def test_ssh_cable_rate_firewall_power(cluster: Cluster) -> None:
    h1, h2 = cluster(2)
    assert h1.run("ssh", "h2", "hostname").output == "h2\n"
    assert "docker" not in h2.shell("ip -o addr")
    said = 'import socket; print(socket.create_connection(("{}", {}), 1).recv(3))'
    greeting = [sys.executable, "-c", said.format("h2", 22)]
    listener = "import socket; s = socket.create_server(('', 900)); s.accept()[0].sendall(b'SSH')"
    other = [sys.executable, "-c", said.format("h2", 900)]
    with open(os.devnull, "w") as nowhere:
        h2.start(sys.executable, "-c", listener, printed=nowhere)
        _wait_for(lambda: _listens(h2, 900))
        h2.set_rate("10mbit")
        assert "SSH" in h1.run(*greeting).output
        h2.allow_ssh_only()
        assert "timed out" in h1.run(*other).output
        assert "SSH" in h1.run(*greeting).output
        h2.unplug()
        assert h1.run(*greeting).status == 1
        h2.plug()
        _wait_for(lambda: "SSH" in h1.run(*greeting).output)
        h2.stop_sshd()
        assert "refused" in h1.run(*greeting).output
        assert list(h2.processes().values()) == [" ".join([sys.executable, "-c", listener])]
        h2.power_off()
        _wait_for(lambda: not h2.processes())


def _listens(host: Host, port: int) -> bool:
    return f":{port:04X} " in host.shell("cat /proc/net/tcp")


def _wait_for(done: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_nothing_is_left_of_them(cluster: Cluster, tmp_path: Path) -> None:
    """Even when the process that has made them is killed."""
    folder = tmp_path / "other"
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", _KEPT, str(folder)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{_HERE}:{_HERE.parent}:{_HERE.parents[1]}"},
    )
    with process:
        assert process.stdout is not None
        first = int(process.stdout.readline())
        assert Path(f"/proc/{first}").exists()
        process.send_signal(signal.SIGKILL)
    _wait_for(lambda: not Path(f"/proc/{first}").exists())
