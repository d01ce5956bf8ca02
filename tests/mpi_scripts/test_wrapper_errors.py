"""What the wrapper refuses, and the remedy that it names."""

from __future__ import annotations

import os
import shutil

import pytest
from wrapper_sandbox import OPEN_MPI, VERSIONS, WRAPPER, Sandbox, tools_without_mpi

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("arguments", "message", "remedy"),
    [
        (["--", "prog"], "number of ranks is missing", "-np 2"),
        (["-np"], "-np needs a value", "--help"),
        (["-np", "0", "--", "prog"], "positive integer, not '0'", "-np 2"),
        (["-np", "-2", "--", "prog"], "positive integer, not '-2'", "-np 2"),
        (["-np", "two", "--", "prog"], "positive integer, not 'two'", "-np 2"),
        (["-np", "1.5", "--", "prog"], "positive integer, not '1.5'", "-np 2"),
        (["-np", "2"], "no command", "after --"),
        (["-np", "2", "--"], "no command", "after --"),
        (["-np", "2", "--bogus", "--", "prog"], "unknown option --bogus", "--help"),
        (["-np", "2", "--bind", "socket", "--", "prog"], "--bind must be", "auto"),
        (["-np", "2", "--cores", "x8", "--", "prog"], "--cores must be", "leave --cores out"),
        (["-np", "2", "-H", "a:0", "--", "prog"], "'a:0' in --hosts", "h1:4,h2:4"),
        (["-np", "2", "-H", "a:2,,b", "--", "prog"], "'' in --hosts", "h1:4,h2:4"),
        (["-np", "2", "-H", "a:2", "--hostfile", "f", "--", "prog"], "both", "one of them"),
        (["-np", "2", "--hostfile", "missing", "--", "prog"], "missing cannot be read", "path"),
        (["-np", "2", "--hostfile", ".", "--", "prog"], "cannot be read", "path"),
        (["-np", "1", "--interface", "nosuch0", "--", "prog"], "no network interface", "lo"),
        (["-np", "1", "--network", "ten/8", "--", "prog"], "not a network", "10.0.0.0/16"),
        (["-np", "3", "--cores", "2", "--", "prog"], "there are 2 slots", "--oversubscribe"),
        (
            ["-np", "3", "--cores", "2", "--bind", "core", "--oversubscribe", "--", "prog"],
            "--bind core needs a core for each rank",
            "--bind none",
        ),
        (["-np", "1", "--mpirun", "nosuch", "--", "prog"], "nosuch was not found", "--mpirun"),
    ],
)
def test_errors(sandbox: Sandbox, arguments: list[str], message: str, remedy: str):
    sandbox.launcher(VERSIONS["openmpi5"])
    result = sandbox.run(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""  # the launcher was not started
    what, what_to_do = result.stderr.rstrip("\n").split("\n")
    assert message in what
    assert remedy in what_to_do


def test_a_copy_of_the_script_alone(sandbox: Sandbox):
    copy = shutil.copy(WRAPPER, sandbox.folder)
    result = sandbox.run("-np", "1", "--", "prog", wrapper=str(copy))
    assert result.returncode == 2
    assert f"the folder {sandbox.folder}/lib is missing" in result.stderr
    assert "copy the whole folder" in result.stderr


def test_no_launcher(sandbox: Sandbox):
    result = sandbox.run("-np", "1", "--", "prog", PATH=str(tools_without_mpi(sandbox)))
    assert result.returncode == 2
    assert "neither mpirun nor mpiexec" in result.stderr
    assert "activate" in result.stderr


@pytest.mark.parametrize(
    ("version", "status", "message"),
    [
        ("mpirun (IBM Spectrum MPI) 10.4", 0, "not known here"),
        ("", 0, "not known here"),
        ("mpirun (Open MPI) 3.1.6", 0, "Open MPI 3 is too old"),
        ("mpiexec.hydra: not found", 127, "--version failed: mpiexec.hydra: not found"),
    ],
)
def test_launchers_that_cannot_be_used(sandbox: Sandbox, version: str, status: int, message: str):
    sandbox.launcher(version, status=status)
    result = sandbox.run("-np", "1", "--", "prog")
    assert result.returncode == 2
    assert message in result.stderr
    assert "remedy:" in result.stderr


@pytest.mark.parametrize(
    ("flavour", "line"),
    [
        ("openmpi5", "h1:4"),
        ("openmpi4", "h1 slots=0"),
        ("mpich", "h1 slots=4"),
        ("mpich", "h1:0"),
        ("intel", "h1 slots=4"),
    ],
)
def test_a_host_file_of_another_format(sandbox: Sandbox, flavour: str, line: str):
    sandbox.launcher(VERSIONS[flavour])
    path = sandbox.hostfile("# hosts", line)
    result = sandbox.run("-np", "1", "--hostfile", path, "--", "prog")
    assert result.returncode == 2
    assert f"line 2 of {path}" in result.stderr
    assert f"hosts/{flavour.rstrip('45')}.hosts" in result.stderr


def test_an_empty_host_file(sandbox: Sandbox):
    sandbox.launcher(VERSIONS["openmpi5"])
    result = sandbox.run("-np", "1", "--hostfile", sandbox.hostfile("# none"), "--", "prog")
    assert result.returncode == 2
    assert "names no host" in result.stderr


def test_intel_mpi_needs_a_file_for_uneven_hosts(sandbox: Sandbox):
    sandbox.launcher(VERSIONS["intel"])
    result = sandbox.run("-np", "3", "-H", "a:2,b:1", "--", "prog")
    assert result.returncode == 2
    assert "--hostfile" in result.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is refused")
class TestRoot:
    @pytest.mark.parametrize("flavour", OPEN_MPI)
    def test_open_mpi_is_refused(self, sandbox: Sandbox, flavour: str):
        sandbox.launcher(VERSIONS[flavour])
        result = sandbox.run("-np", "1", "--", "prog", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="")
        assert result.returncode == 2
        assert "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1" in result.stderr

    @pytest.mark.parametrize("flavour", OPEN_MPI)
    def test_open_mpi_is_let_through_when_asked(self, sandbox: Sandbox, flavour: str):
        sandbox.launcher(VERSIONS[flavour])
        arguments = ("-np", "1", "--", "prog")
        assert "--allow-run-as-root" not in sandbox.command(*arguments)
        for name in ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"):
            del sandbox.env[name]
        assert "--allow-run-as-root" in sandbox.command(*arguments, HVDKIT_ALLOW_ROOT="1")

    @pytest.mark.parametrize("flavour", ["mpich", "intel"])
    def test_the_others_do_not_mind(self, sandbox: Sandbox, flavour: str):
        sandbox.launcher(VERSIONS[flavour])
        words = sandbox.command("-np", "1", "--", "prog", OMPI_ALLOW_RUN_AS_ROOT="")
        assert "--allow-run-as-root" not in words
