"""Slots of hosts, host files and the jobs of schedulers."""

from __future__ import annotations

import pytest
from wrapper_sandbox import FLAVOURS, VERSIONS, Sandbox, has, hosts_of

pytestmark = pytest.mark.quick


def test_slots_of_hosts_add_up(sandbox: Sandbox):
    sandbox.launcher(VERSIONS["openmpi5"])
    assert hosts_of(sandbox.command("-np", "4", "-H", "a:2,b,a:1", "--", "prog")) == "a:3,b:1"
    result = sandbox.run("-np", "5", "-H", "a:2,b,a:1", "--", "prog")
    assert result.returncode == 2
    assert "5 ranks do not fit: there are 4 slots on 2 host(s), counted from --hosts" in (
        result.stderr
    )
    assert "--oversubscribe" in result.stderr


@pytest.mark.parametrize(
    ("flavour", "lines", "slots"),
    [
        ("openmpi5", ["# comment", "", "a slots=3", "b slots = 2 max_slots=4  # more"], 5),
        ("openmpi4", ["a slots=3"], 3),
        ("openmpi5", ["a"], 7),  # the cores
        ("openmpi5", ["a", "a", "b slots=1"], 3),
        ("mpich", ["# comment", "a:3", "b"], 4),
        ("mpich", ["a", "a"], 2),
        ("intel", ["a:3", "b:2"], 5),
    ],
)
def test_slots_of_a_host_file(sandbox: Sandbox, flavour: str, lines: list[str], slots: int):
    sandbox.launcher(VERSIONS[flavour])
    arguments = ("--hostfile", sandbox.hostfile(*lines), "--cores", "7", "--", "prog")
    sandbox.command("-np", str(slots), *arguments)
    result = sandbox.run("-np", str(slots + 1), *arguments)
    assert result.returncode == 2
    assert f"there are {slots} slots" in result.stderr
    assert "--oversubscribe" not in sandbox.command(
        "-np", str(slots + 1), "--oversubscribe", *arguments
    )


def test_a_host_file_without_a_last_newline(sandbox: Sandbox):
    sandbox.launcher(VERSIONS["openmpi5"])
    path = sandbox.folder / "hosts"
    path.write_text("a slots=1\nb slots=1")
    sandbox.command("-np", "2", "--hostfile", str(path), "--", "prog")


def test_slots_of_a_slurm_job(sandbox: Sandbox):
    sandbox.launcher(VERSIONS["openmpi5"])
    slurm = {"SLURM_JOB_ID": "1", "SLURM_TASKS_PER_NODE": "4(x2),3"}
    words = sandbox.command("-np", "11", "--cores", "8", "--", "prog", **slurm)
    # Open MPI asks Slurm for the hosts.
    assert "-H" not in words
    assert has(words, "--map-by", "slot:PE=2")
    result = sandbox.run("-np", "12", "--", "prog", **slurm)
    assert result.returncode == 2
    assert "11 slots on 3 host(s), counted from the Slurm allocation" in result.stderr


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_slots_of_a_pbs_job(sandbox: Sandbox, flavour: str):
    sandbox.launcher(VERSIONS[flavour])
    nodefile = sandbox.hostfile("n1.site", "n1.site", "n2.site", "n2.site")
    words = sandbox.command("-np", "4", "--cores", "8", "--", "prog", PBS_NODEFILE=nodefile)
    if flavour == "intel":
        assert has(words, "-machinefile", nodefile)
    else:
        assert hosts_of(words) == "n1.site:2,n2.site:2"
    result = sandbox.run("-np", "5", "--", "prog", PBS_NODEFILE=nodefile)
    assert "4 slots on 2 host(s), counted from PBS_NODEFILE" in result.stderr
