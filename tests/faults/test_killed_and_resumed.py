"""Jobs that are really killed, or told to end, and started again."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from failing_jobs import ranks_only
from launch import ROOT, Finished, environment, launch_command, run_ranks

SCRIPT = "tests/faults/resumed.py"
# Horovod fuses by timing, and the order of a sum over 3 ranks follows from what is fused.
ENV = {"HOROVOD_FUSION_THRESHOLD": "0"}


def train(launcher: str, ranks: int, folder: Path, *options: str) -> Finished:
    return run_ranks(launcher, ranks, [SCRIPT, str(folder), *options], env=ENV, timeout=150)


def newest(folder: Path) -> dict:
    """What the newest checkpoint is about."""
    path = max((folder / "checkpoints").glob("checkpoint-*"))
    return json.loads((path / "manifest.json").read_text())["checkpoint"]["about"]


def rows_before(folder: Path, epoch: int, batch: int) -> list[int]:
    """The rows of an epoch that were trained on before a batch."""
    return [row for e, b, row in _rows(folder) if e == epoch and b < batch]


def _rows(folder: Path) -> list[tuple[int, ...]]:
    lines = [line for file in folder.glob("rows-*") for line in file.read_text().splitlines()]
    return [tuple(map(int, line.split())) for line in lines]


@pytest.mark.long
@pytest.mark.parametrize(("launcher", "ranks"), [("mpi", 2), ("mpi", 3), ("gloo", 3)])
def test_killed_and_started_again(launcher: str, ranks: int, tmp_path: Path) -> None:
    """One rank is killed while it writes; then the job goes on with as many ranks."""
    killed = train(launcher, ranks, tmp_path, "--kill-while-saving", "1")
    assert killed.status not in (0, None), killed.describe()
    assert (tmp_path / "checkpoints").is_dir()
    assert list((tmp_path / "checkpoints").glob(".unfinished-*"))
    end = train(launcher, ranks, tmp_path, "--compare").require_success()
    assert end.output.count("is the same") == ranks, end.describe()
    assert not list((tmp_path / "checkpoints").glob(".unfinished-*"))


@pytest.mark.parametrize(
    ("launcher", "before", "after"),
    [("mpi", 3, 2), ("gloo", 2, 3)],
)
@pytest.mark.long
def test_another_number_of_ranks(launcher: str, before: int, after: int, tmp_path: Path) -> None:
    """Every row of the epoch is seen once, by one of the two jobs."""
    killed = train(launcher, before, tmp_path, "--record", "--kill", "all:4")
    assert killed.status not in (0, None), killed.describe()
    about = newest(tmp_path)
    assert about["epoch"] == 0
    assert about["batch"] > 0
    done = rows_before(tmp_path, 0, about["batch"])
    for file in tmp_path.glob("rows-*"):
        file.unlink()
    train(launcher, after, tmp_path, "--record").require_success()
    assert sorted(done + rows_before(tmp_path, 0, 1000)) == list(range(50))
    assert sorted(rows_before(tmp_path, 1, 1000)) == list(range(50))


def _start(launcher: str, ranks: int, folder: Path) -> subprocess.Popen[str]:
    argv = launch_command(launcher, ranks, [sys.executable, SCRIPT, str(folder), "--wait"])
    return subprocess.Popen(
        argv,
        env=environment(ENV),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _told_to_end(launcher: str, folder: Path, number: int, whom: str) -> tuple[int, str]:
    """The status and the output of a job that gets a signal while it trains."""
    job = _start(launcher, 2, folder)
    output = ""
    try:
        assert job.stdout is not None
        for line in job.stdout:
            output += line
            if "training " in line:
                rank_0 = int(line.split("training ")[1])
                os.kill(rank_0 if whom == "rank" else job.pid, number)
                break
        rest, _ = job.communicate(timeout=120)
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
            job.communicate()
    return job.returncode, output + rest


@pytest.mark.parametrize(
    ("launcher", "number", "whom", "status"),
    [
        ("mpi", signal.SIGUSR1, "launcher", 75),
        pytest.param("mpi", signal.SIGTERM, "rank", 75, marks=pytest.mark.long),
        pytest.param("gloo", signal.SIGUSR1, "launcher", 75, marks=pytest.mark.long),
        pytest.param("horovodrun", signal.SIGUSR1, "launcher", 75, marks=pytest.mark.long),
    ],
)
def test_told_to_end(launcher: str, number: int, whom: str, status: int, tmp_path: Path) -> None:
    """All ranks save at the same step and end with a status that says so."""
    found, output = _told_to_end(launcher, tmp_path, number, whom)
    assert output.count("told to end by a signal") == 1, output
    said = output.split("saved at epoch ")[1]
    epoch, batches = int(said.split(",")[0]) - 1, int(said.split("after ")[1].split()[0])
    about = newest(tmp_path)
    assert (about["epoch"], about["batch"]) in ((epoch, batches), (epoch + 1, 0)), output
    assert found == status, output


@pytest.mark.long
@pytest.mark.parametrize("launcher", ["mpi", "gloo"])
def test_killed_at_random_steps_many_times(launcher: str, tmp_path: Path) -> None:
    """Every start is killed at some step: all ranks, or one, or one that writes."""
    dice = random.Random(launcher)
    for number in range(12):
        kind = ["--kill", f"all:{dice.randint(1, 4)}"]
        if number % 3 == 1:
            kind = ["--kill", f"{dice.randrange(3)}:{dice.randint(1, 4)}"]
        if number % 3 == 2:
            kind = ["--kill-while-saving", str(dice.randrange(3))]
        finished = train(launcher, 3, tmp_path, *kind)
        if finished.status == 0:
            break
        said = ranks_only(finished).replace("CollectiveError", "")
        assert "Error" not in said, finished.describe()
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "checkpoints", copy)
    started = time.monotonic()
    end = train(launcher, 3, tmp_path, "--compare").require_success()
    assert end.output.count("is the same") == 3, (time.monotonic() - started, end.describe())
