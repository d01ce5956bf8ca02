"""SIGTERM and Ctrl-C reach the launcher as SIGUSR1; a second one ends the job."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest
from wrapper_sandbox import WRAPPER, Sandbox, write_executable

_LAUNCHER = """#!/bin/bash
if [[ $1 == --version ]]; then echo "mpirun (Open MPI) 5.0.11"; exit; fi
trap 'echo early; [[ $ONCE ]] || exit 75' USR1
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
    output, _ = job.communicate(timeout=20)
    assert (output, job.returncode) == ("early\n", 75)


def test_the_second_signal_ends_the_job(sandbox: Sandbox) -> None:
    job = _start(sandbox, ONCE="yes")
    job.send_signal(signal.SIGTERM)
    assert job.stdout is not None
    assert job.stdout.readline() == "early\n"
    job.send_signal(signal.SIGTERM)
    output, _ = job.communicate(timeout=20)
    assert (output, job.returncode) == ("late\n", 143)
