"""Hosts on one machine, joined by links of a set rate, for benchmarks of slow networks.

Each host is a network namespace and a UTS namespace with a name and an address of its own; all are
plugged into one bridge, and their traffic stays inside. Needs root, Linux, and `ip`, `tc`,
`unshare` and `nsenter` (Debian's iproute2 and util-linux).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs import LAUNCHERS

LAUNCHER = "hosts"
_SWITCH = "hvdkit-sw"
_NETWORK = "10.78.0"
_PASSED = ("PATH", "PYTHONPATH", "TF_CPP_MIN_LOG_LEVEL", "HVDKIT_LOG_LEVEL")

# Stands in for ssh, of which mpirun asks to start its daemon on another host.
_AGENT = """#!/bin/sh
while [ $# -gt 0 ]; do case "$1" in -p|-o|-i|-l) shift 2 ;; -*) shift ;; *) break ;; esac; done
host=$1; shift
exec nsenter --uts="{folder}/$host" ip netns exec "hvdkit-$host" sh -c "$*"
"""


class Hosts:
    """Hosts h1, h2, ..., and what a job needs to run on them.

    Args:
        count: number of hosts.
        folder: for what keeps them.
        ranks: number of ranks on each host, in a row.
    """

    def __init__(self, count: int, folder: Path, ranks: int = 1) -> None:
        self.names = [f"h{i + 1}" for i in range(count)]
        self._folder = folder
        self._ranks = ranks

    def start(self) -> None:
        """Make them."""
        _run("ip", "netns", "add", _SWITCH)
        _run("ip", "-n", _SWITCH, "link", "add", "br0", "type", "bridge")
        _run("ip", "-n", _SWITCH, "link", "set", "br0", "up")
        addresses = "".join(f"{_NETWORK}.{i + 1} {name}\n" for i, name in enumerate(self.names))
        for i, name in enumerate(self.names):
            space, port = f"hvdkit-{name}", f"p{name}"
            _run("ip", "netns", "add", space)
            _run(
                *("ip", "link", "add", "eth0", "netns", space),
                *("type", "veth", "peer", "name", port, "netns", _SWITCH),
            )
            _run("ip", "-n", _SWITCH, "link", "set", port, "master", "br0", "up")
            _run("ip", "-n", space, "addr", "add", f"{_NETWORK}.{i + 1}/24", "dev", "eth0")
            _run("ip", "-n", space, "link", "set", "eth0", "up")
            _run("ip", "-n", space, "link", "set", "lo", "up")
            hosts = Path("/etc/netns", space, "hosts")
            hosts.parent.mkdir(parents=True)
            hosts.write_text(f"127.0.0.1 localhost\n{addresses}")
            uts = self._folder / name
            uts.touch()
            _run("unshare", f"--uts={uts}", "hostname", name)
        agent = self._folder / "agent"
        agent.write_text(_AGENT.format(folder=self._folder))
        agent.chmod(0o755)
        LAUNCHERS[LAUNCHER] = [*self._on(self.names[0]), "mpirun", *self._options(agent), "-np"]

    def stop(self) -> None:
        """Remove them, with all that runs on them."""
        LAUNCHERS.pop(LAUNCHER, None)
        for name in self.names:
            space = f"hvdkit-{name}"
            pids = _output("ip", "netns", "pids", space, check=False).split()
            for pid in pids:
                subprocess.run(["kill", "-9", pid], check=False, stderr=subprocess.DEVNULL)
            for command in (
                ["umount", str(self._folder / name)],
                ["ip", "netns", "del", space],
                ["rm", "-rf", f"/etc/netns/{space}"],
            ):
                subprocess.run(command, check=False, stderr=subprocess.DEVNULL)
        subprocess.run(["ip", "netns", "del", _SWITCH], check=False, stderr=subprocess.DEVNULL)

    def set_rate(self, rate: str | None) -> None:
        """Let the links have a rate, in the words of `tc`, such as "1gbit"; None for no limit."""
        for name in self.names:
            for space, device in ((f"hvdkit-{name}", "eth0"), (_SWITCH, f"p{name}")):
                tc = ["tc", "-n", space, "qdisc"]
                subprocess.run(
                    [*tc, "del", "dev", device, "root"], check=False, stderr=subprocess.DEVNULL
                )
                if rate is not None:
                    shape = ["tbf", "rate", rate, "burst", "256kb", "latency", "50ms"]
                    _run(*tc, "add", "dev", device, "root", *shape)

    def sent_bytes(self) -> int:
        """Bytes that the first host has put on its link so far, with the headers of packets."""
        shown = _output("ip", "-n", f"hvdkit-{self.names[0]}", "-s", "-j", "link", "show", "eth0")
        return int(json.loads(shown)[0]["stats64"]["tx"]["bytes"])

    def _on(self, name: str) -> list[str]:
        uts = self._folder / name
        return ["nsenter", f"--uts={uts}", "ip", "netns", "exec", f"hvdkit-{name}"]

    def _options(self, agent: Path) -> list[str]:
        network = f"{_NETWORK}.0/24"
        return [
            *("--prtemca", "plm_ssh_agent", str(agent)),
            *("--prtemca", "prte_if_include", network),
            *("--mca", "btl_tcp_if_include", network),
            *("--mca", "pml", "ob1", "--mca", "btl", "tcp,self", "--bind-to", "none"),
            *("-H", ",".join(f"{name}:{self._ranks}" for name in self.names)),
            *(part for variable in _PASSED for part in ("-x", variable)),
        ]


@contextmanager
def hosts(count: int, ranks: int = 1) -> Iterator[Hosts]:
    """Hosts that are there while the block runs.

    Args:
        count: see `Hosts`.
        ranks: see `Hosts`.

    Raises:
        SystemExit: the process may not make any.
    """
    if os.geteuid() != 0:
        sys.exit("hosts on one machine need root: sudo, or a container with its rights.")
    with tempfile.TemporaryDirectory() as folder:
        made = Hosts(count, Path(folder), ranks)
        try:
            made.start()
            yield made
        finally:
            made.stop()


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


def _output(*command: str, check: bool = True) -> str:
    return subprocess.run(command, check=check, capture_output=True, text=True).stdout
