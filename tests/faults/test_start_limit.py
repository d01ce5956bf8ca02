"""Ranks that do not find each other, and the networks of a host that lead nowhere."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from hvdkit.engine import several_hosts
from hvdkit.engine.launcher import Launch

pytestmark = pytest.mark.quick

WAITS = """
import math, time
from hvdkit.engine import start_limit
start_limit.SHORTEST_SECONDS = 0.5
with start_limit.start_limit({}, {}):
    time.sleep(1.5)
print("STARTED")
"""


@pytest.mark.parametrize(
    ("seconds", "ranks", "status"), [("0.1", 2, 1), ("60", 2, 0), ("math.inf", 2, 0), ("0.1", 1, 0)]
)
def test_a_start_has_a_limit(seconds: str, ranks: int, status: int) -> None:
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", WAITS.format(seconds, ranks)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == status, done.stderr
    assert ("STARTED" in done.stdout) == (status == 0)
    assert ("have not found each other within 0.5 s: host" in done.stderr) == (status == 1)
    assert time.monotonic() - start < 30


def test_bridges_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["lo", "eth0", "docker0", "ib0", "virbr0", "br0"]
    assert several_hosts.bridges(names) == ["docker0", "virbr0"]
    monkeypatch.setattr(several_hosts.psutil, "net_if_addrs", lambda: dict.fromkeys(names))
    for name in (several_hosts._INCLUDE, several_hosts._EXCLUDE):
        monkeypatch.delenv(name, raising=False)
    two_hosts = Launch("Open MPI", 4, 2)
    (setting,) = several_hosts.several_hosts_settings(two_hosts, watched=False)
    assert setting.value == "127.0.0.1/8,sppp,docker0,virbr0"
    monkeypatch.setenv(several_hosts._EXCLUDE, "lo")
    assert several_hosts.several_hosts_settings(two_hosts, watched=False)[0].value == "lo"
    monkeypatch.setenv(several_hosts._INCLUDE, "eth0")
    assert several_hosts.several_hosts_settings(two_hosts, watched=False) == []
    monkeypatch.delenv(several_hosts._INCLUDE)
    assert several_hosts.several_hosts_settings(Launch("Open MPI", 2, 2), watched=True) == []
