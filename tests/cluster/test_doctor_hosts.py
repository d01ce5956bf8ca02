"""`hvdkit doctor --hosts`: each trouble has its remedy, and hosts that work are measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hosts import Cluster, Host
from launch import ROOT, Finished

from hvdkit_cli.doctor.check import Check
from hvdkit_cli.doctor.hosts import _clock, _compared, _networks
from hvdkit_cli.doctor.remote import Answer

DOCTOR = (sys.executable, "-m", "hvdkit_cli.main", "doctor", "--json")


def _examine(host: Host, *arguments: str, seconds: float = 60) -> tuple[Finished, dict[str, Any]]:
    done = host.run(*DOCTOR, *arguments, timeout=seconds)
    report = done.output[done.output.index("{") :]
    return done, {check["name"]: check for check in json.loads(report)["checks"]}


def test_what_keeps_hosts_from_working_together(cluster: Cluster) -> None:
    """An unknown name, ssh refused, hvdkit missing; the hosts that work are not tried with them."""
    h1, h2, h3 = cluster(3)
    h2.shell(f"mount -t tmpfs none {ROOT / 'hvdkit'}")
    h3.stop_sshd()
    done, checks = _examine(h1, "--hosts", "h1,h2,h3,nowhere")
    assert done.status == 1
    failed = {name: check for name, check in checks.items() if check["status"] == "fail"}
    assert set(failed) == {"h2: installed", "h3: ssh", "nowhere: ssh"}, done.describe()
    assert "hvdkit: missing, here " in failed["h2: installed"]["detail"]
    assert "Connection refused" in failed["h3: ssh"]["detail"]
    assert "Could not resolve hostname" in failed["nowhere: ssh"]["detail"]
    assert all(check["remedy"] for check in failed.values())
    assert checks["h1: ssh"]["status"] == checks["h2: clock"]["status"] == "ok"
    assert checks["pairs"]["detail"] == "not tried with h2, h3, nowhere: see above"


@pytest.mark.long
def test_pairs_are_measured(cluster: Cluster) -> None:
    """A link that is slow, and a host of which a firewall lets only ssh through."""
    h1, h2, h3 = cluster(3)
    for host in (h1, h2):  # a bridge for containers
        host.shell("ip link add docker0 type bridge; ip addr add 172.17.0.1/16 dev docker0")
    h2.set_rate("50mbit")
    h3.allow_ssh_only()
    done, checks = _examine(h1, "--hosts", "h1,h2,h3", "--timeout", "30", seconds=240)
    assert done.status == 1
    assert checks["h1 - h2"]["status"] == "ok", done.describe()
    assert 1 < checks["h1 - h2"]["measured"]["megabytes_per_second"] < 8
    assert checks["h1 - h2"]["measured"]["latency_ms"] < 200
    for name in ("h1 - h3", "h2 - h3"):
        assert checks[name]["status"] == "fail", done.describe()
        assert "firewall" in checks[name]["remedy"]
    assert "172.17.0.1 on h1 (docker0), h2 (docker0)" in checks["networks"]["detail"]


@pytest.mark.long
def test_another_version_and_no_python(cluster: Cluster, tmp_path: Path) -> None:
    h1, h2, h3 = cluster(3)
    other = tmp_path / "__init__.py"
    other.write_text((ROOT / "hvdkit" / "__init__.py").read_text().replace("dev0", "dev9"))
    h2.shell(f"mount --bind {other} {ROOT / 'hvdkit' / '__init__.py'}")
    h3.shell(f"mount -t tmpfs none {Path(sys.executable).parent}")
    done, checks = _examine(h1, "--hosts", "h2,h3")
    assert done.status == 1
    assert "dev9" in checks["h2: installed"]["detail"]
    assert checks["h3: ssh"]["status"] == "fail"
    assert "install hvdkit at the same path" in checks["h3: ssh"]["remedy"]


@pytest.mark.quick
def test_judgements() -> None:
    assert not _clock("h1", Answer({}, Check("", "ok", ""), ahead=1.4, seconds=0.5)).failed
    late = _clock("h1", Answer({}, Check("", "ok", ""), ahead=-1.6, seconds=0.5))
    assert late.failed
    assert "-1.60 s" in late.detail
    speeds = {"h1 - h2": 100.0, "h1 - h3": 5.0, "h2 - h3": 90.0}
    pairs = [
        Check(name, "ok", "", measured={"megabytes_per_second": speed})
        for name, speed in speeds.items()
    ]
    assert [check.name for check in _compared(pairs) if check.failed] == ["h1 - h3"]
    assert not any(check.failed for check in _compared(pairs[:2]))
    shared = {name: {"addresses": {"172.17.0.1": "docker0"}} for name in ("h1", "h2")}
    assert not _networks(shared, pairs)[0].failed
    (network,) = _networks(shared, [Check("h1 - h2", "fail", "")])
    assert network.failed
    assert "--interface" in network.remedy
    assert _networks({"h1": {"addresses": {"10.0.0.1": "eth0"}}}, pairs) == []
