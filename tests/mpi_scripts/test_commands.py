"""The command that the wrapper makes for each MPI, and the launcher that it picks."""

from __future__ import annotations

from pathlib import Path

import pytest
from wrapper_sandbox import (
    FLAVOURS,
    MPI,
    OPEN_MPI,
    VERSIONS,
    WRAPPER,
    Sandbox,
    has,
    tools_without_mpi,
)

pytestmark = pytest.mark.quick


def test_open_mpi_4(sandbox: Sandbox):
    sandbox.launcher(VERSIONS["openmpi4"])
    words = sandbox.command(
        "-np", "8", "-H", "h1:4,h2:4", "--interface", "lo", "--cores", "16", "--", "prog", "-v"
    )
    assert words == [
        *("-np", "8", "-H", "h1:4,h2:4", "--map-by", "slot:PE=4", "--bind-to", "core"),
        *("--mca", "pml", "ob1", "--mca", "btl", "^openib"),
        *("--mca", "btl_tcp_if_include", "lo", "--mca", "oob_tcp_if_include", "lo"),
        *(
            "-x",
            "NCCL_SOCKET_IFNAME=lo",
            "-x",
            "HOROVOD_GLOO_IFACE=lo",
            "-x",
            "PATH",
            "-x",
            "TF_CPP_MIN_LOG_LEVEL",
        ),
        *("prog", "-v"),
    ]


def test_open_mpi_5(sandbox: Sandbox):
    sandbox.launcher(VERSIONS["openmpi5"])
    words = sandbox.command("-np", "8", "-H", "h1:4,h2:4", "--cores", "16", "--", "prog")
    assert words == [
        *("-np", "8", "-H", "h1:4,h2:4", "--map-by", "slot:PE=4", "--bind-to", "core"),
        *(
            "--mca",
            "pml",
            "ob1",
            "--mca",
            "btl",
            "^ofi,uct",
            "-x",
            "PATH",
            "-x",
            "TF_CPP_MIN_LOG_LEVEL",
            "prog",
        ),
    ]


def test_mpich(sandbox: Sandbox):
    sandbox.launcher(VERSIONS["mpich"])
    words = sandbox.command(
        "-np", "8", "-H", "h1:4,h2:4", "--interface", "lo", "--cores", "16", "--", "prog"
    )
    assert words == [
        *("-n", "8", "-hosts", "h1:4,h2:4", "-bind-to", "core:4", "-map-by", "core:4"),
        *("-genvlist", "PATH,TF_CPP_MIN_LOG_LEVEL", "-iface", "lo"),
        *("-genv", "NCCL_SOCKET_IFNAME", "lo", "-genv", "HOROVOD_GLOO_IFACE", "lo"),
        *("-genv", "FI_TCP_IFACE", "lo", "-genv", "UCX_NET_DEVICES", "lo", "prog"),
    ]


def test_intel_mpi(sandbox: Sandbox):
    sandbox.launcher(VERSIONS["intel"])
    words = sandbox.command(
        "-np", "8", "-H", "h1:4,h2:4", "--interface", "lo", "--cores", "16", "--", "prog"
    )
    assert words == [
        *("-n", "8", "-hosts", "h1,h2", "-ppn", "4"),
        *("-genv", "I_MPI_PIN", "1", "-genv", "I_MPI_PIN_DOMAIN", "auto:compact"),
        *("-genvlist", "PATH,TF_CPP_MIN_LOG_LEVEL", "-iface", "lo"),
        *("-genv", "NCCL_SOCKET_IFNAME", "lo", "-genv", "HOROVOD_GLOO_IFACE", "lo"),
        *("-genv", "FI_TCP_IFACE", "lo", "-genv", "I_MPI_HYDRA_IFACE", "lo", "prog"),
    ]


@pytest.mark.parametrize("version", ["mpirun.openmpi (OpenRTE) 4.1.4", VERSIONS["openmpi4"]])
def test_both_names_of_open_mpi_4(sandbox: Sandbox, version: str):
    sandbox.launcher(version)
    assert "^openib" in sandbox.command("-np", "1", "--", "prog")


def test_mpiexec_is_used_where_there_is_no_mpirun(sandbox: Sandbox):
    sandbox.env["PATH"] = f"{sandbox.bin}:{tools_without_mpi(sandbox)}"
    sandbox.launcher(VERSIONS["mpich"], name="mpiexec")
    assert sandbox.command("-np", "1", "--", "prog")[-1] == "prog"


def test_another_launcher_by_name(sandbox: Sandbox):
    sandbox.launcher(VERSIONS["mpich"])
    other = sandbox.launcher(VERSIONS["openmpi5"], name="mpirun.other")
    assert "ob1" in sandbox.command("-np", "1", "--mpirun", str(other), "--", "prog")


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_host_file_is_passed_on(sandbox: Sandbox, flavour: str):
    sandbox.launcher(VERSIONS[flavour])
    line = "h1 slots=2" if flavour in OPEN_MPI else "h1:2"
    path = sandbox.hostfile(line)
    option = {"mpich": "-f", "intel": "-machinefile"}.get(flavour, "--hostfile")
    words = sandbox.command("-np", "2", "--hostfile", path, "--", "prog")
    assert has(words, option, path)


@pytest.mark.parametrize(("target", "call"), [(WRAPPER, "./link"), (MPI, f"link/{WRAPPER.name}")])
def test_called_through_a_link(sandbox: Sandbox, target: Path, call: str):
    sandbox.launcher(VERSIONS["mpich"])
    (sandbox.folder / "link").symlink_to(target)
    result = sandbox.run("--dry-run", "-np", "1", "--", "prog", wrapper=call)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith(" prog\n")
