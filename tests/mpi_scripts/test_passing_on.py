"""What the wrapper passes on as it is: environment, arguments and exit status."""

from __future__ import annotations

import subprocess

import pytest
from wrapper_sandbox import FLAVOURS, OPEN_MPI, VERSIONS, Sandbox, write_executable

pytestmark = pytest.mark.quick


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
    kept = {"OTHER_SECRET": "hush"}
    # Terraform's variables begin with TF_, too.
    kept |= {"TF_VAR_password": "hush", "TF_TOKEN_app": "hush", "TF_CLI_ARGS": "", "TF_LOG": "1"}
    words = sandbox.command("-np", "1", "--", "prog", **forwarded, **kept)
    assert sorted(names_passed_on(words, flavour)) == sorted([*forwarded, "PATH"])
    assert not any(name in " ".join(words) for name in kept)


def names_passed_on(words: list[str], flavour: str) -> list[str]:
    if flavour in OPEN_MPI:
        return [words[i + 1] for i, word in enumerate(words) if word == "-x"]
    return words[words.index("-genvlist") + 1].split(",")


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_x_passes_a_variable_on(sandbox: Sandbox, flavour: str):
    sandbox.launcher(VERSIONS[flavour])
    given = ("-x", "TOKEN", "-x", "GREETING=two words", "-x", "PATH")
    words = sandbox.command("-np", "1", *given, "--", "prog", "-x", "kept", TOKEN="t")
    names = names_passed_on(words[: words.index("prog")], flavour)
    assert sorted(names) == ["GREETING", "PATH", "TF_CPP_MIN_LOG_LEVEL", "TOKEN"]
    assert words[-3:] == ["prog", "-x", "kept"]


def test_x_gives_the_variable_its_value(sandbox: Sandbox):
    write_executable(
        sandbox.bin / "mpirun",
        '#!/bin/sh\n[ "$1" = --version ] && echo "mpirun (Open MPI) 5.0.11" && exit 0\n'
        'echo "$GREETING; $TOKEN; $TF_CPP_MIN_LOG_LEVEL"\n',
    )
    given = ("-np", "1", "-x", "GREETING=a=b c", "-x", "TOKEN")
    assert sandbox.run(*given, "--", "prog", TOKEN="t").stdout == "a=b c; t; 1\n"
    shown = sandbox.run(*given, "--", "prog", TOKEN="t", TF_CPP_MIN_LOG_LEVEL="0")
    assert shown.stdout == "a=b c; t; 0\n"


@pytest.mark.parametrize("wrong", ["MISSING", "a-b=1", "=1", ""])
def test_x_of_something_else_is_an_error(sandbox: Sandbox, wrong: str):
    sandbox.launcher(VERSIONS["openmpi5"])
    result = sandbox.run("-np", "1", "-x", wrong, "--", "prog")
    assert result.returncode == 2
    assert "-x" in result.stderr
    assert "remedy" in result.stderr


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
