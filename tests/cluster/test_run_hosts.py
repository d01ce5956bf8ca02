"""`hvdkit run` over two hosts: it runs, and when a host is lost it fails, and nothing is left."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hosts import Cluster, Host
from launch import ROOT, Finished, end_job

pytestmark = pytest.mark.long

LAUNCHERS = ("mpirun", "gloo")
LOST_SECONDS = 8
# Until both sides have seen it, and what does not end by itself has been killed.
GONE_SECONDS = 45
SUM = """
import hvdkit as hvd
hvd.init()
total = hvd.allreduce(float(hvd.rank() + 1), op=hvd.Sum)
print("SUM", total, hvd.size(), hvd.local_size(), flush=True)
"""
SLEEP = ["sh", "-c", "echo begun; sleep 100"]


def options(launcher: str, logs: Path) -> list[str]:
    limits = ["--lost-timeout", str(LOST_SECONDS), "--start-timeout", "20"]
    return ["hvdkit", "run", "--launcher", launcher, "--log-dir", str(logs), *limits]


@contextmanager
def running(host: Host, launcher: str, logs: Path) -> Iterator[tuple[object, Path]]:
    """A job of both hosts whose ranks sleep."""
    with tempfile.NamedTemporaryFile("w") as printed:
        command = [*options(launcher, logs), "-H", "h1:1,h2:1", "--", *SLEEP]
        job = host.start(*command, printed=printed.file)
        try:
            for rank in (0, 1):
                wait_until(lambda file=logs / f"rank{rank}.log": file.exists(), 40)
            yield job, Path(printed.name)
        finally:
            end_job(job)


def wait_until(done, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.1)


def left(host: Host) -> list[str]:
    """What is left of a job; an ssh whose cable was cut waits for its kernel to tell it so."""
    return [line for line in host.processes().values() if not line.startswith("sshd: ")]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_hosts(launcher: str, cluster: Cluster, tmp_path: Path) -> None:
    h1, h2 = cluster(2)
    command = [*options(launcher, tmp_path), "-H", "h1:2,h2:2", "--", sys.executable, "-c", SUM]
    job = h1.run(*command, timeout=150).require_success()
    assert "4 ranks (-np: the slots of -H) on h1 (2), h2 (2)" in job.output, job.describe()
    for rank in range(4):
        assert "SUM 10.0 4 2" in (tmp_path / f"rank{rank}.log").read_text()
    wait_until(lambda: not left(h1) and not left(h2), 10)


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("fault", ["power_off", "unplug", "freeze", "end"])
def test_a_host_is_lost(fault: str, launcher: str, cluster: Cluster, tmp_path: Path) -> None:
    h1, h2 = cluster(2)
    with running(h1, launcher, tmp_path) as (job, printed):
        start = time.monotonic()
        getattr(h2, fault)()
        status = job.wait(GONE_SECONDS)
        seconds = time.monotonic() - start
        finished = Finished(status, printed.read_text())
    assert status != 0, finished.describe()
    assert "rank 1 (host h2, pid " in finished.output, finished.describe()
    assert " was lost: " in finished.output, finished.describe()
    assert left(h1) == []
    if fault == "freeze":
        h2.thaw()
    if fault in ("unplug", "freeze"):
        wait_until(lambda: not left(h2), GONE_SECONDS)
    print(f"{fault} {launcher}: the end after {seconds:.1f} s")


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_hosts_that_can_not_be_reached(launcher: str, cluster: Cluster, tmp_path: Path) -> None:
    h1, h2 = cluster(2)
    h1.shell("ssh h2 true")  # it is there now
    h2.stop_sshd()
    command = [*options(launcher, tmp_path), "-H", "h1:1,h2:1", "--", *SLEEP]
    job = h1.run(*command, timeout=60)
    assert job.status not in (0, None), job.describe()
    assert "rank 1 (host h2)" in job.output, job.describe()
    assert left(h1) == []
    assert left(h2) == []


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_hvdkit_is_missing_on_a_host(launcher: str, cluster: Cluster, tmp_path: Path) -> None:
    h1, h2 = cluster(2)
    h2.shell(f"mount -t tmpfs none {ROOT}/hvdkit_cli")
    command = [*options(launcher, tmp_path), "-H", "h1:1,h2:1", "--", *SLEEP]
    job = h1.run(*command, timeout=60)
    assert job.status == 1, job.describe()
    assert "No module named 'hvdkit_cli.run'" in job.output, job.describe()
    assert "before rank 1 (host h2) had started" in job.output, job.describe()
    wait_until(lambda: not left(h1) and not left(h2), 10)


def test_a_firewall_between_the_ranks_and_hvdkit_run(cluster: Cluster, tmp_path: Path) -> None:
    """ssh works, and nothing else does."""
    h1, h2 = cluster(2)
    h1.allow_ssh_only()
    command = [*options("gloo", tmp_path), "-H", "h1:1,h2:1", "--", *SLEEP]
    job = h1.run(*command, timeout=90)
    assert job.status not in (0, None), job.describe()
    assert "rank 1 (host h2)" in job.output, job.describe()
    wait_until(lambda: not left(h1) and not left(h2), GONE_SECONDS)
