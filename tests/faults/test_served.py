"""A rank of a training with a parameter server dies or stops: the job ends, and says which one."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from failing_jobs import require_one_block
from launch import run_ranks

SCRIPT = Path(__file__).with_name("served.py")
GONE_SECONDS = 10.0
STALL_SECONDS = 5.0  # in served.py
SERVER, WORKER = 2, 1
KILLED = ("rank {rank} (host", "was ended by signal 9 (SIGKILL)")
STOPPED = ("rank {rank} stopped taking part:", "no heartbeat for")


@pytest.mark.long
@pytest.mark.parametrize(
    ("victim", "staleness", "fault"),
    [
        (SERVER, None, "SIGKILL"),
        (WORKER, None, "SIGKILL"),
        (0, 1, "SIGKILL"),
        (SERVER, 0, "SIGKILL"),
        (SERVER, None, "SIGSTOP"),
        (WORKER, 0, "SIGSTOP"),
        (WORKER, 2, "SIGSTOP"),
    ],
)
def test_a_rank_fails(victim: int, staleness: int | None, fault: str) -> None:
    job = run_ranks("mpi", 3, [str(SCRIPT), str(victim), str(staleness), fault])
    ended = time.time()
    assert job.status, job.describe()
    said = KILLED if fault == "SIGKILL" else STOPPED
    require_one_block(job, *(text.replace("{rank}", str(victim)) for text in said))
    assert "TRAINED" not in job.output, job.describe()
    seconds = ended - float(re.findall(r"FAULT AT ([\d.]+)", job.output)[0])
    print(f"FAULT {fault} of rank {victim}: gone after {seconds:.1f} s")
    limit = GONE_SECONDS + (STALL_SECONDS if fault == "SIGSTOP" else 0)
    assert seconds < limit, job.describe()
