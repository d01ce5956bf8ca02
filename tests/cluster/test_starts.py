"""Hosts that keep a job from starting: one clear error, and no wait without end."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from failing_jobs import blocks
from hosts import Cluster, Host
from jobs import TRAINING, WRAPPER, job, mpirun
from launch import ROOT, Finished

SECONDS = 40.0
STARTS = [sys.executable, "-S", "-c", "print('RAN')"]
QUICK = ("mpirun", "wrapper")


def _launcher(name: str, slots: str) -> list[str]:
    return {
        "mpirun": mpirun(slots),
        "wrapper": [str(WRAPPER), "-np", "2", "-H", slots, "--bind", "none", "--"],
        "horovodrun": ["horovodrun", "--mpi", "-np", "2", "-H", slots],
        "gloo": ["horovodrun", "--gloo", "-np", "2", "-H", slots],
    }[name]


def _hide_python(host: Host) -> None:
    host.shell(f"mount -t tmpfs none {Path(sys.executable).parent}")


Trouble = Callable[[Host], None]
# what is done to the second host, what the first one's user names, what is said
TROUBLES: dict[str, tuple[Trouble, str, str]] = {
    "refused": (Host.stop_sshd, "h2", "Connection refused"),
    "unknown": (lambda host: None, "nowhere", "Could not resolve hostname nowhere"),
    "silent": (Host.unplug, "h2", "No route to host"),
    "no python": (_hide_python, "h2", "No such file or directory"),
}


@pytest.mark.parametrize(
    "launcher",
    [*QUICK, *(pytest.param(n, marks=pytest.mark.long) for n in ("horovodrun", "gloo"))],
)
@pytest.mark.parametrize(
    "trouble", ["refused", "unknown", "no python", pytest.param("silent", marks=pytest.mark.long)]
)
def test_a_host_that_ssh_does_not_reach(
    cluster: Cluster, tmp_path: Path, launcher: str, trouble: str
) -> None:
    h1, h2 = cluster(2)
    happens, name, said = TROUBLES[trouble]
    happens(h2)
    command = [*_launcher(launcher, f"h1:1,{name}:1"), *STARTS]
    done = h1.run(*command, timeout=SECONDS, env={"HOME": str(tmp_path)})
    _require_error(done, said)
    assert "RAN" not in done.output, done.describe()


def _require_error(done: Finished, said: str) -> None:
    assert done.status not in (0, None), done.describe()
    assert said in done.output, done.describe()


def _train(hosts: list[Host], tmp_path: Path, limit: float, seconds: float) -> Finished:
    launcher = _launcher("mpirun", "h1:1,h2:1")
    with job(hosts, launcher, TRAINING, limit, 20, printed=tmp_path / "printed") as started:
        finished = started.wait(seconds)
        started.require_gone(*hosts)
        return finished


@pytest.mark.long
def test_another_version_of_hvdkit(cluster: Cluster, tmp_path: Path) -> None:
    hosts = cluster(2)
    other = tmp_path / "__init__.py"
    other.write_text((ROOT / "hvdkit" / "__init__.py").read_text().replace("dev0", "dev9"))
    hosts[1].shell(f"mount --bind {other} {ROOT / 'hvdkit' / '__init__.py'}")
    finished = _train(hosts, tmp_path, 60, 90)
    _require_error(finished, "the hosts of this job have different versions: hvdkit 0.")
    (block,) = blocks(finished.output)
    assert "dev9 on h2" in block


@pytest.mark.long
def test_hvdkit_is_missing_on_a_host(cluster: Cluster, tmp_path: Path) -> None:
    """An empty folder is all that there is of it."""
    hosts = cluster(2)
    hosts[1].shell(f"mount -t tmpfs none {ROOT / 'hvdkit'}")
    finished = _train(hosts, tmp_path, 60, 90)
    _require_error(finished, "module 'hvdkit' has no attribute 'init'")


@pytest.mark.long
def test_bridges_with_one_address_on_both_hosts(cluster: Cluster, tmp_path: Path) -> None:
    """MPI alone would wait for ever."""
    hosts = cluster(2)
    for host in hosts:
        host.shell("ip link add docker0 type bridge; ip link set docker0 up")
        host.shell("ip addr add 172.17.0.1/16 dev docker0")
    finished = _train(hosts, tmp_path, 60, 90).require_success()
    assert "OMPI_MCA_btl_tcp_if_exclude = 127.0.0.1/8,sppp,docker0" in finished.output


@pytest.mark.long
def test_another_network_that_leads_nowhere(cluster: Cluster, tmp_path: Path) -> None:
    """Nobody can know what it is for; the ranks do not wait for ever."""
    hosts = cluster(2)
    for host in hosts:
        host.shell("ip link add mgmt0 type bridge; ip link set mgmt0 up")
        host.shell("ip addr add 192.168.9.1/24 dev mgmt0")
    finished = _train(hosts, tmp_path, 5, 200)
    _require_error(finished, "the 2 ranks of this job have not found each other within 120 s")
