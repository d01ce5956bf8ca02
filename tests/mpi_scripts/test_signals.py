"""SIGTERM and Ctrl-C reach the launcher as SIGUSR1; a second one ends the job."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest
from wrapper_sandbox import WRAPPER, Sandbox, write_executable

pytestmark = pytest.mark.quick

_LAUNCHER = """#!/bin/bash
if [[ $1 == --version ]]; then echo "mpirun (Open MPI) 5.0.11"; exit; fi
[[ $DEAF ]] || trap 'echo early; [[ $ONCE ]] || exit 75' USR1
trap 'echo late; exit 143' TERM
trap 'echo interrupted; exit 130' INT
echo ready
while true; do sleep 0.05; done
"""


def _listen_to_ctrl_c() -> None:
    """Tests in the background of a shell inherit that it is ignored; bash can't undo that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _start(sandbox: Sandbox, **env: str) -> subprocess.Popen[str]:
    write_executable(sandbox.bin / "mpirun", _LAUNCHER)
    job = subprocess.Popen(
        [str(WRAPPER), "-np", "1", "--", "prog"],
        env=sandbox.env | env,
        cwd=sandbox.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_listen_to_ctrl_c,
    )
    assert job.stdout is not None
    assert job.stdout.readline() == "ready\n"
    return job


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_the_first_signal_leaves_time_to_save(sandbox: Sandbox, number: int) -> None:
    job = _start(sandbox)
    # Ctrl-C comes to all processes of the terminal's foreground.
    os.killpg(job.pid, number)
    output, errors = job.communicate(timeout=20)
    assert (output, job.returncode) == ("early\n", 75)
    assert ("Ctrl-C: the ranks are asked to save" in errors) == (number == signal.SIGINT)


@pytest.mark.parametrize(
    ("number", "name", "status"), [(signal.SIGINT, "Ctrl-C", 130), (signal.SIGTERM, "SIGTERM", 143)]
)
def test_ranks_that_do_not_save_are_ended_by_what_it_was(
    sandbox: Sandbox, number: int, name: str, status: int
) -> None:
    """Not by signal 10, although mpirun passes that one on."""
    job = _start(sandbox, DEAF="yes")
    os.killpg(job.pid, number)
    _, errors = job.communicate(timeout=20)
    assert job.returncode == status
    assert f"the job was ended by {name}" in errors


def test_sigusr1_stays_what_it_is(sandbox: Sandbox) -> None:
    job = _start(sandbox, DEAF="yes")
    job.send_signal(signal.SIGUSR1)
    job.communicate(timeout=20)
    assert job.returncode == 128 + signal.SIGUSR1


def test_the_second_signal_ends_the_job(sandbox: Sandbox) -> None:
    job = _start(sandbox, ONCE="yes")
    job.send_signal(signal.SIGTERM)
    assert job.stdout is not None
    assert job.stdout.readline() == "early\n"
    job.send_signal(signal.SIGTERM)
    output, _ = job.communicate(timeout=20)
    assert (output, job.returncode) == ("late\n", 143)
