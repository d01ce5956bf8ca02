"""What the wrapper passes on as it is: environment, arguments and exit status."""

from __future__ import annotations

import subprocess

import pytest
from wrapper_sandbox import FLAVOURS, OPEN_MPI, VERSIONS, Sandbox, write_executable


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_what_the_user_chose_stays(sandbox: Sandbox, flavour: str):
    sandbox.launcher(VERSIONS[flavour])
    words = sandbox.command(
        *("-np", "2", "--cores", "2", "--interface", "lo", "--", "prog"),
        NCCL_SOCKET_IFNAME="ib0",
        OMPI_MCA_pml="ucx",
        I_MPI_PIN_DOMAIN="socket",
    )
    line = " ".join(words)
    assert "NCCL_SOCKET_IFNAME=lo" not in line
    assert "NCCL_SOCKET_IFNAME lo" not in line
    assert "NCCL_SOCKET_IFNAME" in line
    assert "ob1" not in line
    assert "I_MPI_PIN_DOMAIN" not in line


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_forwarded_environment(sandbox: Sandbox, flavour: str):
    sandbox.launcher(VERSIONS[flavour])
    forwarded = {
        "LD_LIBRARY_PATH": "/x",
        "PYTHONPATH": "/y z",
        "HOROVOD_CYCLE_TIME": "0.1",
        "HVDKIT_LOG": "info",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "NCCL_DEBUG": "WARN",
        "OMP_NUM_THREADS": "3",
        "XLA_FLAGS": "--a --b",
        "KERAS_BACKEND": "tensorflow",
    }
    words = sandbox.command("-np", "1", "--", "prog", **forwarded, OTHER_SECRET="hush")
    if flavour in OPEN_MPI:
        names = [words[i + 1] for i, word in enumerate(words) if word == "-x"]
    else:
        names = words[words.index("-genvlist") + 1].split(",")
    assert sorted(names) == sorted([*forwarded, "PATH"])
    assert "OTHER_SECRET" not in " ".join(words)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_arguments_arrive_unchanged(sandbox: Sandbox, flavour: str):
    sandbox.launcher(VERSIONS[flavour])
    odd = ["two words", "", "a'b\"c", "$HOME", "*", "line\nbreak", "--np", "-x", "é"]
    result = sandbox.run("--dry-run", "-np", "1", "--", "prog", *odd)
    assert result.stdout.count("\n") == 1
    # The printed line is a command for a shell: run it, and read what arrives.
    line = result.stdout.strip()
    script = 'for word; do printf "%s\\0" "$word"; done\n'
    printer = write_executable(sandbox.bin / "mpirun", f"#!/bin/sh\n{script}")
    assert line.startswith(str(printer))
    shown = subprocess.run(
        ["bash", "-c", line], env=sandbox.env, capture_output=True, text=True, check=True
    )
    assert shown.stdout.split("\0")[-len(odd) - 2 : -1] == ["prog", *odd]


def test_a_run_is_the_dry_run(sandbox: Sandbox):
    sandbox.launcher(VERSIONS["openmpi5"])
    arguments = ("-np", "2", "-H", "h1:2", "--", "prog", "two words")
    assert sandbox.run(*arguments).stdout.splitlines() == sandbox.command(*arguments)


def test_the_exit_status_is_the_launchers(sandbox: Sandbox):
    write_executable(
        sandbox.bin / "mpirun",
        '#!/bin/sh\n[ "$1" = --version ] && echo "mpirun (Open MPI) 5.0.11" && exit 0\nexit 37\n',
    )
    assert sandbox.run("-np", "1", "--", "prog").returncode == 37
