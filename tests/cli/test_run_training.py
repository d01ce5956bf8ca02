"""Trainings under `hvdkit run`: hvdkit's watch, preemption and elastic jobs work as without it."""

from __future__ import annotations

import re
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
from failing_jobs import require_one_block
from launch import LIKE_A_USER, ROOT, run_command
from run_jobs import HVDKIT, LAUNCHERS, run, started, wait_for

pytestmark = pytest.mark.long

FAULTS = ROOT / "tests/faults"
STALL_LIMIT = "5"


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize(
    ("fault", "status", "said"),
    [
        ("exception", 1, "an exception on rank 1 (host"),
        ("exception_everywhere", 1, "an exception on ranks 0-1 (host"),
        ("kill", 137, "was ended by signal 9 (SIGKILL)"),
        ("segfault", 139, "was ended by signal 11 (SIGSEGV)"),
        ("exit", 3, "ended with exit status 3, without"),
        ("raised_exit", 3, "ended with exit status 3, without"),
        ("end", 1, "rank 1 left while"),
        ("stop", 137, "is missing: no heartbeat for"),
        ("loop", 1, "sum(range(1000))"),
    ],
)
def test_the_message_of_the_watch(
    launcher: str, fault: str, status: int, said: str, tmp_path: Path
) -> None:
    """Once, whichever rank says it, and with the status of the rank that failed."""
    command = [sys.executable, str(FAULTS / "faulty.py"), fault, "1", STALL_LIMIT]
    start = time.monotonic()
    env = {"TF_CPP_MIN_LOG_LEVEL": "1"}
    options = ["-np", "2", "--launcher", launcher]
    job = run(*options, "--", *command, logs=tmp_path, env=env, timeout=90)
    assert job.status == status, job.describe()
    require_one_block(job, said)
    assert job.output.count("hvdkit run: error:") == 1, job.describe()
    assert "the last lines of its log" not in job.output, job.describe()
    pids = {int(pid) for pid in re.findall(r"PID (\d+)", _logs(tmp_path))}
    assert len(pids) == 2
    assert not any(psutil.pid_exists(pid) for pid in pids)
    print(f"{fault} {launcher}: {time.monotonic() - start:.1f} s")


def test_what_tensorflow_logs_at_its_start_is_in_the_logs_only(tmp_path: Path) -> None:
    """With all packages that a user has, and the level that `hvdkit run` sets."""
    code = "import tensorflow as tf; print('SUM', int(tf.constant(1) + 1))"
    env = {**LIKE_A_USER, "CUDA_VISIBLE_DEVICES": ""}
    shell = ["env", "-u", "TF_CPP_MIN_LOG_LEVEL"]
    command = [*shell, *HVDKIT, "--log-dir", str(tmp_path), "-np", "2", "--", sys.executable, "-c"]
    job = run_command([*command, code], env=env, timeout=120).require_success()
    assert job.output.splitlines()[1:] == ["SUM 2"], job.describe()
    for rank in (0, 1):
        assert "cpu_feature_guard" in (tmp_path / f"rank{rank}.log").read_text()


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_told_to_end_and_started_again(launcher: str, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    command = [sys.executable, str(FAULTS / "resumed.py"), str(tmp_path)]
    options = ["-np", "2", "--launcher", launcher]
    with started(*options, "--", *command, "--wait", logs=logs) as (job, printed):
        wait_for(logs / "rank0.log", "training")
        job.send_signal(signal.SIGTERM)
        assert job.wait(60) == 75, printed.read_text()
        assert "told to end by a signal: saved at epoch" in printed.read_text()
    again = run(*options, "--", *command, "--compare", logs=logs, timeout=150).require_success()
    assert "going on from" in again.output, again.describe()
    assert _logs(logs).count("is the same") == 2


def test_killed_and_started_again_from_the_last_checkpoint(tmp_path: Path) -> None:
    """The first start is killed while it saves; the second goes on to the end, and compares."""
    logs = tmp_path / "logs"
    shell = (
        f"exec {sys.executable} {FAULTS / 'resumed.py'} {tmp_path} "
        "$([ $HVDKIT_RESTART = 0 ] && echo --kill-while-saving 1 || echo --compare)"
    )
    options = ["-np", "2", "--restarts", "1"]
    job = run(*options, "--", "sh", "-c", shell, logs=logs, timeout=200).require_success()
    assert "restart 1 of 1" in job.output, job.describe()
    assert "going on from" in job.output, job.describe()
    assert _logs(logs).count("is the same") == 2


def test_an_elastic_job_goes_on_without_a_worker(tmp_path: Path) -> None:
    logs, folder, hosts = tmp_path / "logs", tmp_path / "diaries", tmp_path / "hosts"
    folder.mkdir()
    hosts.write_text("localhost:1\n127.0.0.1:1\n")
    script = [sys.executable, str(FAULTS / "elastic.py"), str(folder), "--die", "127.0.0.1", "5"]
    discover = f"{ROOT / 'mpi/discover-hosts.sh'} {hosts}"
    options = ["-np", "2", "--elastic", "1:4", "--discover", discover]
    job = run(*options, "--", *script, logs=logs, timeout=150).require_success()
    assert re.search(r"rank \d \(.+\) was ended by signal 9 \(SIGKILL\); the others go on",
                     job.output), job.describe()  # fmt: skip
    assert (logs / "localhost-0.log").exists()
    assert (logs / "127.0.0.1-0.log").exists()


def _logs(folder: Path) -> str:
    return "".join(file.read_text() for file in folder.glob("rank*.log"))
