"""Which launcher `hvdkit run` takes where, what it is given, and what is refused."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner
from support import program

from hvdkit_cli.launched import rank_of
from hvdkit_cli.main import cli
from hvdkit_cli.record import BuildRecord
from hvdkit_cli.run.launchers import base

pytestmark = pytest.mark.quick

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_TASKS_PER_NODE": "2(x2)",
    "SLURM_NTASKS": "4",
    "SLURM_CPUS_PER_TASK": "3",
}
NODES = 'printf "n1\\nn2\\n"'
PMIX = 'echo "MPI plugin types are..." >&2; echo "none pmix" >&2'
MPIRUN = 'echo "mpirun (Open MPI) 5.0.11"'


class Place:
    """A machine with some programs on PATH, and a Horovod that was built so."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.monkeypatch = monkeypatch
        for name in list(os.environ):
            if name.startswith(("SLURM_", "PBS_", "OMPI_COMM", "PMI")):
                monkeypatch.delenv(name)
        tools = os.pathsep.join(["/usr/sbin", "/usr/bin", "/sbin", "/bin"])
        monkeypatch.setenv("PATH", os.pathsep.join([str(folder), tools]))
        monkeypatch.setenv("OMPI_ALLOW_RUN_AS_ROOT", "1")
        monkeypatch.setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        self.built(mpi="wheel")

    def built(self, **facts: str) -> None:
        record = BuildRecord("key", {"device": "cpu", **facts})
        self.monkeypatch.setattr(base, "read_record", lambda: record)
        self.monkeypatch.setattr(base, "distribution", lambda name: name)

    def has(self, **programs: str) -> None:
        for name, script in programs.items():
            program(self.folder, name, script)

    def inside(self, **variables: str) -> None:
        for name, value in variables.items():
            self.monkeypatch.setenv(name, value)

    def line(self, *options: str) -> list[str]:
        """The words of what --dry-run prints."""
        result = CliRunner().invoke(cli, ["run", *options, "--dry-run", "--", "python", "a b.py"])
        assert result.exit_code == 0, (result.output, result.exception)
        assert result.output.count("\n") == 1
        words = shlex.split(result.output)
        assert words[-2:] == ["python", "a b.py"]
        return words[:-2]

    def refusal(self, *options: str) -> str:
        result = CliRunner().invoke(cli, ["run", *options, "--dry-run", "--", "python", "a b.py"])
        assert result.exit_code != 0, result.output
        return str(result.exception) if result.exception else result.output


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path / "bin", monkeypatch)


def has(words: Sequence[str], *sequence: str) -> bool:
    return any(tuple(words[i : i + len(sequence)]) == sequence for i in range(len(words)))


def test_mpirun_where_horovod_knows_mpi(place: Place) -> None:
    place.has(mpirun=MPIRUN)
    words = place.line("-np", "1", "--bind", "none", "-x", "MINE=a b")
    assert words[0] == str(place.folder / "mpirun")
    assert has(words, "--bind-to", "none")
    assert has(words, "-x", "MINE")
    words = place.line("-H", "h1:2,h2:2", "--interface", "10.0.0.0/8")
    assert has(words, "-np", "4")
    assert has(words, "-H", "h1:2,h2:2")
    assert has(words, "--mca", "btl_tcp_if_include", "10.0.0.0/8")


def test_gloo_where_it_does_not_or_there_is_no_mpirun(place: Place) -> None:
    gloo = [sys.executable, "-c", "from hvdkit_cli.horovodrun import main; main()", "--gloo"]
    assert place.line("-np", "2", "-H", "h1,h2") == [*gloo, "-np", "2", "-H", "h1:1,h2:1"]
    # It starts a rank in every slot, however many are asked for.
    assert place.line("-np", "3", "-H", "h1:2,h2:2,h3:2")[-1] == "h1:2,h2:1"
    assert place.line("-np", "1", "-H", "h1:4")[-1] == "h1:1"
    place.has(mpirun=MPIRUN)
    place.built(mpi="none")
    words = place.line("-np", "2", "-H", "h1,h2", "--interface", "eth0", "-x", "A=1")
    assert words == ["env", "A=1", *gloo, "--network-interfaces", "eth0", *words[8:]]
    words = place.line("-np", "4", "-H", "h1,h2", "--oversubscribe")
    assert words[-4:] == ["-np", "4", "-H", "h1:2,h2:2"]


def test_srun_in_a_slurm_job_with_pmix(place: Place) -> None:
    place.has(srun=PMIX, scontrol=NODES, mpirun=MPIRUN)
    place.inside(**SLURM)
    words = place.line()
    assert words[:3] == ["srun", "--mpi=pmix", "--ntasks=4"]
    assert {"--cpus-per-task=3", "--cpu-bind=cores", "--kill-on-bad-exit=1"} <= set(words)
    assert {"--ntasks=1", "--nodes=1"} <= set(place.line("-np", "1"))
    assert "--overcommit" in place.line("-np", "5", "--oversubscribe")
    assert place.line("--launcher", "mpirun")[0].endswith("mpirun")
    gloo = place.line("--launcher", "gloo")
    assert gloo[-4:] == ["-np", "4", "-H", "n1:2,n2:2"]


def test_mpirun_in_a_slurm_job_without_pmix(place: Place) -> None:
    place.has(srun="echo none cray", scontrol=NODES, mpirun=MPIRUN)
    place.inside(**SLURM)
    words = place.line()
    assert words[0].endswith("mpirun")
    assert has(words, "-np", "4")
    assert "this Slurm has no PMIx" in place.refusal("--launcher", "srun")


def test_the_hosts_of_a_pbs_job(place: Place, tmp_path: Path) -> None:
    place.has(mpirun=MPIRUN)
    nodes = tmp_path / "nodes"
    nodes.write_text("n1\nn1\nn2\nn2\n")
    place.inside(PBS_NODEFILE=str(nodes))
    words = place.line()
    assert has(words, "-np", "4")
    assert has(words, "-H", "n1:2,n2:2")
    place.built(mpi="none")
    assert has(place.line(), "-H", "n1:2,n2:2")
    nodes.unlink()
    assert "PBS_NODEFILE" in place.refusal()


def test_elastic_jobs_are_gloos(place: Place) -> None:
    place.has(mpirun=MPIRUN)
    words = place.line("--elastic", "2:8", "--discover", "mpi/discover-hosts.sh hosts.txt")
    assert has(words, "-np", "2", "--min-np", "2", "--max-np", "8")
    assert has(words, "--host-discovery-script", "mpi/discover-hosts.sh hosts.txt")
    assert "MPI has no elastic jobs" in place.refusal(
        "--elastic", "2:8", "--discover", "x", "--launcher", "mpirun"
    )
    assert "--discover, or two hosts" in place.refusal("--elastic", "1:2")
    assert "-np 3 is not within" in place.refusal("--elastic", "1:2", "-np", "3")


def test_a_host_file(place: Place, tmp_path: Path) -> None:
    place.built(mpi="none")
    hosts = tmp_path / "hosts"
    hosts.write_text("# two\nh1 slots=2\nh2:3\n")
    assert has(place.line("--hostfile", str(hosts)), "-np", "5", "-H", "h1:2,h2:3")
    assert "5 slots on 2 host(s)" in place.refusal("--hostfile", str(hosts), "-np", "6")
    hosts.write_text("h1\n")
    assert "is not known" in place.refusal("--hostfile", str(hosts))
    assert "give one" not in place.refusal("--hostfile", str(tmp_path / "no"), "-np", "1")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-np", "9", "-H", "h1:4,h2:4"], "9 ranks do not fit: there are 8 slots on 2 host(s)"),
        (["-H", "h1:x"], "'h1:x' in -H is not HOST or HOST:SLOTS."),
        (["-H", "h1", "--hostfile", "f"], "Both -H and --hostfile are given."),
        (["-np", "1", "-x", "NO_SUCH_NAME"], "there is no such variable in the environment."),
        (["-np", "1", "--launcher", "srun"], "this is no Slurm job"),
        (["-np", "1", "--launcher", "mpirun"], "there is no mpirun on PATH"),
        (["-np", "1", "--launcher", "gloo", "--bind", "core"], "it binds ranks to no cores"),
    ],
)
def test_refusals(options: list[str], said: str, place: Place) -> None:
    assert said in place.refusal(*options)


def test_an_allocation_that_is_too_small(place: Place) -> None:
    place.has(srun=PMIX, scontrol=NODES)
    place.inside(**SLURM)
    said = place.refusal("-np", "8")
    assert "8 ranks do not fit: there are 4 slots on 2 host(s), counted from the Slurm" in said


def test_horovod_is_missing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "distribution", lambda name: None)
    place.has(mpirun=MPIRUN)
    assert "Horovod is not installed (hvdkit build)" in place.refusal("-np", "1")


def test_the_rank_that_a_launcher_gives() -> None:
    assert rank_of({"OMPI_COMM_WORLD_RANK": "3", "SLURM_PROCID": "0"}) == 3
    assert rank_of({"SLURM_PROCID": "2"}) == 2
    assert rank_of({}) is None
