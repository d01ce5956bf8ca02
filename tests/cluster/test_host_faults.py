"""What happens to hosts while they train: a message, a status that is not 0, nothing left.

mpirun alone ends with 0 where a host closes its connections; what hvdkit starts itself does not.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from failing_jobs import blocks
from hosts import Cluster, Host
from jobs import TRAINING, WRAPPER, Job, job, mpirun

from hvdkit.watch.launcher import END_SECONDS

LIMIT = 5.0
STEPS = 3000
# From the fault to the end: the limit, mpirun's time to end, and a slow machine's.
GONE_SECONDS = LIMIT + END_SECONDS + 20.0
SLOTS = "h1:1,h2:1"
MPIRUN = mpirun(SLOTS)
LAUNCHERS = {
    "mpirun": MPIRUN,
    "wrapper": [str(WRAPPER), "-np", "2", "-H", SLOTS, "--bind", "none", "--"],
    "horovodrun": ["horovodrun", "--mpi", "-np", "2", "-H", SLOTS],
    "gloo": ["horovodrun", "--gloo", "-np", "2", "-H", SLOTS],
}
NO_HEARTBEAT = ("rank 1 stopped taking part:", "rank 1 (host h2, pid", "is missing: no heartbeat")


def _train(
    hosts: list[Host], launcher: list[str], folder: Path, limit: float = LIMIT, width: int = 8
) -> AbstractContextManager[Job]:
    printed = folder / "printed"
    return job(hosts, launcher, TRAINING, limit, STEPS, width, printed=printed)


def _require_message(output: str, *texts: str) -> None:
    found = blocks(output)
    assert len(found) == 1, output
    assert all(text in found[0] for text in texts), output


def _require_failure(started: Job, *texts: str) -> int:
    """The job ends within its limits, and says why; returns its exit status."""
    start = time.monotonic()
    finished = started.wait(GONE_SECONDS)
    print(f"FAULT: gone after {time.monotonic() - start:.1f} s, status {finished.status}")
    _require_message(finished.output, *texts)
    assert "TRAINED" not in finished.output, finished.describe()
    assert finished.status is not None
    return finished.status


@pytest.mark.long
@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("fault", ["unplug", "power_off", "freeze"])
def test_a_host_falls_silent(cluster: Cluster, tmp_path: Path, launcher: str, fault: str) -> None:
    """Its cable is cut and mended too late; it loses power; it freezes, and goes on too late."""
    hosts = h1, h2 = cluster(2)
    with _train(hosts, LAUNCHERS[launcher], tmp_path) as started:
        started.wait_for("TRAINS", 2)
        getattr(h2, fault)()
        assert _require_failure(started, *NO_HEARTBEAT) != 0
        if fault == "unplug":
            started.require_gone(h2)
            h2.plug()
        elif fault == "freeze":
            h2.thaw()
        started.require_gone(h1, h2)


@pytest.mark.long
def test_a_cable_that_is_mended_in_time(cluster: Cluster, tmp_path: Path) -> None:
    hosts = cluster(2)
    with _train(hosts, MPIRUN, tmp_path) as started:
        started.wait_for("TRAINS", 2)
        hosts[1].unplug()
        time.sleep(1)
        hosts[1].plug()
        time.sleep(LIMIT + 3)
        assert started.is_running
        assert blocks(started.output) == []


@pytest.mark.long
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_host_ends_and_closes_its_connections(
    cluster: Cluster, tmp_path: Path, launcher: str
) -> None:
    """mpirun ends before any rank can know; the ranks that it leaves say what happened.

    Gloo's launcher says which host it was, and ends the others before they know.
    """
    hosts = h1, h2 = cluster(2)
    with _train(hosts, LAUNCHERS[launcher], tmp_path) as started:
        started.wait_for("TRAINS", 2)
        h2.end()
        finished = started.wait(GONE_SECONDS)
        started.require_gone(h1)
        if launcher == "gloo":
            assert finished.status, finished.describe()
            assert "Connection to h2 closed by remote host" in started.output
        else:
            _require_message(started.output, "rank 1 (host h2, pid")


@pytest.mark.long
def test_the_host_of_mpirun_loses_power(cluster: Cluster, tmp_path: Path) -> None:
    """With it go rank 0 and its hub; the others end all the same."""
    hosts = h1, h2 = cluster(2)
    with _train(hosts, mpirun("h1:2,h2:1"), tmp_path) as started:
        started.wait_for("TRAINS", 3)
        h1.power_off()
        started.wait_until(lambda: not h2.processes(), GONE_SECONDS, "end on h2", alive=False)


@pytest.mark.long
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_rank_on_another_host_is_killed(cluster: Cluster, tmp_path: Path, launcher: str) -> None:
    """MPI would end the others before they can say which it was."""
    hosts = h1, h2 = cluster(2)
    with _train(hosts, LAUNCHERS[launcher], tmp_path) as started:
        started.wait_for("TRAINS", 2)
        (pid,) = [p for p, line in h2.processes().items() if line.startswith(sys.executable)]
        os.kill(pid, signal.SIGKILL)
        assert _require_failure(started, "rank 1 (host h2, pid") != 0
        started.require_gone(h1, h2)


@pytest.mark.long
def test_mpirun_is_killed(cluster: Cluster, tmp_path: Path) -> None:
    """Its ranks would go on for nobody."""
    hosts = cluster(2)
    with _train(hosts, MPIRUN, tmp_path) as started:
        started.wait_for("TRAINS", 2)
        (pid,) = [p for p, line in hosts[0].processes().items() if line.startswith("prterun")]
        os.kill(pid, signal.SIGKILL)
        started.wait(GONE_SECONDS)
        started.require_gone(*hosts)


@pytest.mark.long
def test_a_link_that_becomes_slow_is_named(cluster: Cluster, tmp_path: Path) -> None:
    """It is no error: the training goes on, at the speed of that link."""
    hosts = cluster(3)
    for host in hosts:
        host.set_rate("1gbit")
    with _train(hosts, mpirun("h1:1,h2:1,h3:1"), tmp_path, 60, 700) as started:
        started.wait_for("TRAINS", 3)
        time.sleep(8)
        assert "carries" not in started.output
        hosts[1].set_rate("10mbit")
        # In a ring, the slow way into a host can't be told from the one out of the host before.
        named = re.compile(r"the network (of host h2|between hosts .*h2.*) carries")
        started.wait_until(lambda: bool(named.search(started.output)), 60, "warning")
        assert started.is_running
        assert blocks(started.output) == []
