"""`hvdkit top`, on files as jobs leave them, and on a terminal."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launch import environment, run_ranks
from rich.console import Console
from sink_samples import ALARM, JOB, NOW, epoch_sample, sample

import hvdkit as hvd
from hvdkit.monitoring.sample import Job
from hvdkit.monitoring.sinks.lines import LineReader
from hvdkit_cli.top.picture import picture
from hvdkit_cli.top.seen import Seen

pytestmark = pytest.mark.quick
TOP = ["-m", "hvdkit", "top"]


def written(folder: Path, *, ends: bool = True) -> Path:
    """What a job has written."""
    sink = hvd.monitoring.JsonLines(folder)
    sink.begin(JOB)
    sink.log(sample(10))
    sink.alarm(ALARM)
    sink.log(epoch_sample(10))
    sink.log(sample(20, loss=0.125))
    if ends:
        sink.end()
    return folder


def shown(folder: Path, now: float = NOW, height: int | None = None) -> str:
    """What a terminal shows of it."""
    seen = Seen()
    seen.take(LineReader(folder).new_lines())
    console = Console(width=130, color_system=None)
    with console.capture() as capture:
        console.print(picture(seen, now, height))
    return capture.get()


def test_once_prints_a_row_for_each_rank_and_the_alarms(tmp_path: Path) -> None:
    job = run_ranks("python", 1, [*TOP, str(written(tmp_path)), "--once"], timeout=60)
    lines = job.require_success().output.splitlines()
    assert "2 ranks on 2 hosts: ended at " in lines[0]
    text = "\n".join(lines)
    for said in (
        "step 20, epoch 1 of 3, loss 0.125, learning rate 0.5",
        "300 rows/s, 90 W, 2 J a step, 25% of the peak FLOP/s",
        "60% compute",
        "20% waiting for ranks",
        "epoch 1: loss 0.25, val_loss 0.75",
        "step 20: Rank 1 on two keeps the others waiting.",
    ):
        assert said in text, text
    rows = [line.split() for line in lines if " GiB" in line]
    assert [row[1:3] for row in rows] == [["0", "one"], ["1", "two"]], text
    assert [row.count("50") for row in rows] == [0, 1], text  # rank 1 waits 50 ms for data


def test_says_what_there_is_none_of(tmp_path: Path) -> None:
    missing = run_ranks("python", 1, [*TOP, str(tmp_path)], timeout=60)
    assert missing.status == 1
    assert f"there is no {tmp_path}/monitor.jsonl." in missing.output.replace("\n", "")
    assert "hvd.monitoring.JsonLines" in missing.output
    (tmp_path / "monitor.jsonl").write_text("a text\n")
    other = run_ranks("python", 1, [*TOP, str(tmp_path)], timeout=60)
    assert other.status == 1
    assert "has no figures of a job" in other.output.replace("\n", " ")


def test_a_job_that_runs_ends_or_is_silent(tmp_path: Path) -> None:
    assert "ended at" in shown(written(tmp_path / "ended"), now=NOW + 1000)
    folder = written(tmp_path / "running", ends=False)
    assert "2 hosts: runs" in shown(folder)
    assert "2 hosts: no news for 40 s" in shown(folder, now=NOW + 40)
    assert "2 hosts: no news for 10 min" in shown(folder, now=NOW + 600)


def test_slow_steps_are_no_silence(tmp_path: Path) -> None:
    sink = hvd.monitoring.JsonLines(tmp_path)
    sink.begin(JOB)
    sink.log(sample(10, at=NOW))
    sink.log(sample(20, at=NOW + 60))
    assert ": runs" in shown(tmp_path, now=NOW + 160)
    assert "no news for 4 min" in shown(tmp_path, now=NOW + 301)


def test_the_last_fit_of_a_file_is_shown(tmp_path: Path) -> None:
    written(tmp_path)
    hvd.monitoring.JsonLines(tmp_path).begin(Job(3, ["three"] * 3, {}))
    text = shown(tmp_path)
    assert "3 ranks on 1 host: runs" in text
    assert "no figures yet" in text
    assert "Rank 1" not in text


def test_of_many_ranks_the_slowest_are_shown(tmp_path: Path) -> None:
    sink = hvd.monitoring.JsonLines(tmp_path)
    sink.begin(Job(200, ["one"] * 200, {}))
    sink.log(sample(10, ranks=200))
    text = shown(tmp_path, height=40)
    assert len(text.splitlines()) <= 40
    assert "ranks that wait longer for the others" in text
    assert len(shown(tmp_path).splitlines()) > 200


def test_names_are_no_markup(tmp_path: Path) -> None:
    sink = hvd.monitoring.JsonLines(tmp_path)
    sink.begin(Job(1, ["[red]host"], {"epochs": "[b]"}))
    made = sample(10)
    sink.log(type(made)(10, 1, 10, NOW, {"[/red]": 1.0}, made.ranks))
    assert "[/red] 1" in shown(tmp_path)


@pytest.mark.long
def test_on_a_terminal_it_follows_the_job_until_ctrl_c(tmp_path: Path) -> None:
    sink = hvd.monitoring.JsonLines(tmp_path)
    sink.begin(JOB)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, *TOP, str(tmp_path)],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env={**environment(), "COLUMNS": "130", "LINES": "40", "TERM": "xterm"},
    )
    os.close(theirs)
    try:
        read_until(ours, "no figures yet")
        sink.log(sample(1234))
        read_until(ours, "step 1234,")
        process.send_signal(signal.SIGINT)
        rest = read_until(ours, None)
        assert process.wait(20) == 0
        assert "Traceback" not in rest
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read_until(terminal: int, wanted: str | None, seconds: float = 60) -> str:
    """What comes from a terminal, until something has come; None for its end."""
    text, until = "", time.monotonic() + seconds
    while wanted is None or wanted not in text:
        assert select.select([terminal], [], [], max(until - time.monotonic(), 0))[0], text
        try:
            data = os.read(terminal, 65536)
        except OSError:  # nobody has it open any more
            data = b""
        if not data:
            assert wanted is None, text
            return text
        text += data.decode(errors="replace")
    return text
