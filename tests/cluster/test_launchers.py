"""Jobs over several hosts, by each launcher as a user calls it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hosts import Cluster
from jobs import HERE, WRAPPER, job, mpirun, unmarked
from launch import run_ranks

SLOTS = "h1:2,h2:2"
SECONDS = 120.0
# rank: host, local rank, local size, cross rank, cross size
PLACES = {
    0: ("h1", 0, 2, 0, 2),
    1: ("h1", 1, 2, 0, 2),
    2: ("h2", 0, 2, 1, 2),
    3: ("h2", 1, 2, 1, 2),
}
LAUNCHERS = {
    "mpirun": mpirun(SLOTS),
    "wrapper": [str(WRAPPER), "-np", "4", "-H", SLOTS, "--bind", "none", "--"],
    "horovodrun": ["horovodrun", "--mpi", "-np", "4", "-H", SLOTS],
    "gloo": ["horovodrun", "--gloo", "-np", "4", "-H", SLOTS],
}


@pytest.mark.long
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_several_hosts_do_as_one_process(cluster: Cluster, tmp_path: Path, launcher: str) -> None:
    """Ranks know where they are, train alike, and write where all hosts can read, or nowhere."""
    hosts = cluster(2)
    local = tmp_path / "local"
    local.mkdir()
    for host in hosts:
        host.shell(f"mount -t tmpfs none {local}")
    printed = tmp_path / "printed"
    script = HERE / "contract.py"
    with job(hosts, LAUNCHERS[launcher], script, tmp_path, local, printed=printed) as started:
        finished = started.wait(SECONDS).require_success()
        started.require_gone(*hosts)
    lines = unmarked(finished.output)
    places = re.findall(r"PLACE (\d) (h\d) (\d) (\d) (\d) (\d)$", lines, re.MULTILINE)
    found = {int(rank): (host, *map(int, numbers)) for rank, host, *numbers in places}
    assert found == PLACES, finished.describe()
    assert re.findall(r"TENSOR \d (.*)$", lines, re.MULTILINE).count("h1") == 2
    assert re.findall(r"TENSOR \d (.*)$", lines, re.MULTILINE).count("h2") == 2
    assert lines.count("RESTORED") == 4, finished.describe()
    refused = [line for line in lines.splitlines() if line.startswith("REFUSED")]
    assert len(refused) == 4, finished.describe()
    assert all("is not the folder that rank 0 sees" in line for line in refused)
    run_ranks("python", 1, [str(script), str(tmp_path), str(local)]).require_success()
    with np.load(tmp_path / "weights4.npz") as four, np.load(tmp_path / "weights1.npz") as one:
        for name in one:
            np.testing.assert_allclose(four[name], one[name], rtol=1e-5, atol=1e-6)


# A host that joins needs less to start TensorFlow.
GLOO_SECONDS = 40
ELASTIC = HERE.parent / "faults" / "elastic.py"


@pytest.mark.long
def test_elastic_with_hosts_that_come_and_go(cluster: Cluster, tmp_path: Path) -> None:
    """One host joins, another one loses power; the training goes on to its end.

    Those that are left notice it by Gloo's own limit, horovodrun by that of ssh.
    """
    hosts = cluster(3)
    with (tmp_path / "cluster" / "ssh_config").open("a") as settings:
        settings.write("ServerAliveInterval 5\nServerAliveCountMax 2\n")
    listed = tmp_path / "hosts"
    listed.write_text("h1:1\nh2:1\n")
    discover = f"{HERE.parents[1] / 'mpi/discover-hosts.sh'} {listed}"
    command = ["horovodrun", "--gloo", "-np", "2", "--min-np", "1", "--max-np", "3"]
    command += ["--elastic-timeout", "60", "--host-discovery-script", discover]
    printed = tmp_path / "printed"
    env = {"HOROVOD_GLOO_TIMEOUT_SECONDS": str(GLOO_SECONDS)}
    arguments = (ELASTIC, tmp_path, "--pause", 0.1)
    with job(hosts, command, *arguments, printed=printed, env=env) as started:
        started.wait_until(lambda: _train(tmp_path) == {"h1", "h2"}, 90, "training on h1 and h2")
        listed.write_text("h1:1\nh2:1\nh3:1\n")
        started.wait_until(lambda: "h3" in _train(tmp_path), 60, "training on h3")
        hosts[1].power_off()
        listed.write_text("h1:1\nh3:1\n")
        finished = started.wait(SECONDS + GLOO_SECONDS).require_success()
        started.require_gone(hosts[0], hosts[2])
    assert _hosts_of(tmp_path, "end") == {"h1", "h3"}, finished.describe()


def _train(folder: Path) -> set[str]:
    return _hosts_of(folder, "step")


def _hosts_of(folder: Path, what: str) -> set[str]:
    """The hosts whose ranks have written that down."""
    files = [file for file in folder.glob("*.jsonl") if f'"what": "{what}"' in file.read_text()]
    return {file.name.split("-")[0] for file in files}
