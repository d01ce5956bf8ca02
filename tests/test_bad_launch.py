"""More ranks than slots: the launchers refuse it."""

from __future__ import annotations

import re
import subprocess
import sys
import time

import pytest
from failing_jobs import LIMIT_SECONDS, SCRIPTS, require_failure, squeezed
from launch import ROOT, Finished, environment


@pytest.mark.parametrize(
    ("launcher", "message"),
    [
        (["horovodrun", "--gloo"], "requested more processes (4) than there are available slots"),
        # Open MPI's words, through horovodrun as well.
        (["horovodrun"], "not enough slots available in the system to satisfy the 4"),
        (["mpirun"], "not enough slots available in the system to satisfy the 4"),
    ],
    ids=["horovodrun_gloo", "horovodrun", "mpirun"],
)
def test_more_ranks_than_slots(launcher: list[str], message: str) -> None:
    """The launchers refuse it themselves, before they start a rank."""
    script = [sys.executable, str(SCRIPTS / "ranks.py")]
    job, seconds = run_command([*launcher, "-np", "4", "-H", "localhost:2", *script])
    require_failure(job, f"{launcher[0]} -np 4 on 2 slots", seconds)
    assert squeezed(message).lower() in squeezed(job.output).lower(), job.describe()
    assert "runs" not in re.findall(r"rank \d of \d (\w+)", job.output), job.describe()


def run_command(command: list[str]) -> tuple[Finished, float]:
    """Run a launcher's command line; it, and the seconds it took."""
    start = time.monotonic()
    finished = subprocess.run(
        command,
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    job = Finished(finished.returncode, finished.stdout + finished.stderr)
    return job, time.monotonic() - start
