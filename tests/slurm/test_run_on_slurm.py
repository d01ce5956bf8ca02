"""`hvdkit run` in jobs of a real Slurm of two nodes: it finds srun, and its status is the job's."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from launch import ROOT

pytestmark = pytest.mark.long

OPTIONS = ("--nodes=2", "--ntasks-per-node=2", "--cpus-per-task=1", "--output=run-%j.log")
PLACE = """
import socket
from mpi4py import MPI
world = MPI.COMM_WORLD
print("RANK", world.rank, "of", world.size, "on", socket.gethostname(), flush=True)
world.Barrier()
"""
FAIL = "import os, sys; sys.exit(4 if os.environ['SLURM_PROCID'] == '1' else 0)"
LISTEN = """
import signal, sys, time
asked = []
signal.signal(signal.SIGUSR1, lambda *_: asked.append(1))
print("READY", flush=True)
while not asked:
    time.sleep(0.05)
sys.exit(75)
"""


@pytest.fixture
def submit(box: Any):
    """Submit a job in which `hvdkit run` starts some Python code."""

    def submitted(code: str, *options: str) -> Any:
        shutil.rmtree(box.folder / "logs", ignore_errors=True)
        script = Path(box.folder) / "code.py"
        script.write_text(code)
        words = ["exec hvdkit run --log-dir logs", *options, "--", sys.executable, str(script)]
        wrap = f"--wrap={' '.join(words)}"
        return box.submit("", options=[*OPTIONS, wrap], env={"PYTHONPATH": str(ROOT)})

    yield submitted
    box.call("scancel", "--user=root")
    box.wait_until_idle()


@pytest.mark.parametrize("launcher", ["srun", "mpirun"])
def test_all_tasks_of_the_job(submit: Any, box: Any, launcher: str) -> None:
    options = ["--launcher", launcher] if launcher != "srun" else []
    job = submit(PLACE, *options)
    job.wait_for_state("COMPLETED")
    said = f"4 ranks (-np: the tasks of the Slurm job) on n1 (2), n2 (2) by {launcher}"
    assert said in job.printed(), job.describe()
    for rank in range(4):
        log = (box.folder / f"logs/rank{rank}.log").read_text()
        assert f"RANK {rank} of 4 on n{rank // 2 + 1}" in log


def test_the_status_is_that_of_the_rank(submit: Any) -> None:
    job = submit(FAIL)
    assert job.wait_for_state("FAILED")["ExitCode"] == "4:0", job.describe()
    assert "rank 1 (host n1, pid " in job.printed(), job.describe()


def test_saved_when_slurm_asks(submit: Any, box: Any) -> None:
    job = submit(LISTEN)
    job.wait_for("READY")
    logs, end = [box.folder / f"logs/rank{rank}.log" for rank in range(4)], time.monotonic() + 30
    while not all(log.exists() and "READY" in log.read_text() for log in logs):
        assert time.monotonic() < end, job.describe()
        time.sleep(0.05)
    box.call("scancel", "--batch", "--signal=USR1", job.number)
    assert job.wait_for_state("FAILED")["ExitCode"] == "75:0", job.describe()
    assert "told to end by SIGUSR1, and have saved (status 75)" in job.printed()


def test_more_ranks_than_the_job_has_tasks(submit: Any) -> None:
    job = submit(PLACE, "-np", "9")
    assert job.wait_for_state("FAILED")["ExitCode"] == "1:0", job.describe()
    said = "9 ranks do not fit: there are 4 slots on 2 host(s), counted from the Slurm allocation"
    assert said in job.printed(), job.describe()
