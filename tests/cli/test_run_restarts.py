"""What `hvdkit run` starts again, and how it asks a job to end."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from run_jobs import LAUNCHERS, run, script, started, wait_for

# Rank 1 ends in another way at each start; the others end by themselves.
OTHERWISE = """
start = int(os.environ["HVDKIT_RESTART"])
print("start", start, flush=True)
if rank == 1:
    ({})[start]()
"""
LISTENS = """
asked = []
signal.signal(signal.SIGUSR1, lambda *_: asked.append(1))
print("READY", flush=True)
while not asked:
    time.sleep(0.02)
print("saved", flush=True)
sys.exit(75)
"""
DEAF = "print('READY', flush=True); time.sleep(100)"
STUBBORN = """
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, lambda *_: print("not now", flush=True))
print("READY", flush=True)
while True:
    time.sleep(0.1)
"""
KILL = "lambda: os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize("launcher", ["mpirun", pytest.param("gloo", marks=pytest.mark.long)])
def test_started_again_after_a_kill_and_not_after_an_error(launcher: str, tmp_path: Path) -> None:
    ends = f"[{KILL}, lambda: sys.exit(5), lambda: None]"
    options = ["-np", "2", "--launcher", launcher, "--restarts", "3"]
    job = run(*options, *script(OTHERWISE.format(ends)), logs=tmp_path)
    assert job.status == 5, job.describe()
    assert "starting again in 1 s (restart 1 of 3)" in job.output, job.describe()
    assert "not started again: the script's own error would come again" in job.output
    assert re.findall(r"^start (\d)", job.output, re.MULTILINE) == ["0", "1"], job.describe()
    log = (tmp_path / "rank1.log").read_text()
    assert re.sub(r", \d{4}-.* \d\d:\d\d:\d\d", "", log) == (
        "==== hvdkit run ====\nstart 0\n==== hvdkit run, start 2 ====\nstart 1\n"
    )


@pytest.mark.long
@pytest.mark.parametrize(
    ("ends", "restarts", "status", "starts"),
    [
        (f"[{KILL}, lambda: None]", 3, 0, 2),
        (f"[{KILL}] * 9", 1, 137, 2),
        ("[lambda: sys.exit(75), lambda: None]", 1, 0, 2),
        ("[lambda: 1 / 0] * 9", 2, 1, 1),
        (f"[{KILL}] * 9", 0, 137, 1),
    ],
)
def test_how_often(ends: str, restarts: int, status: int, starts: int, tmp_path: Path) -> None:
    options = ["-np", "2", "--restarts", str(restarts)]
    job = run(*options, *script(OTHERWISE.format(ends)), logs=tmp_path)
    assert job.status == status, job.describe()
    assert len(re.findall(r"^start \d", job.output, re.MULTILINE)) == starts, job.describe()


@pytest.mark.parametrize(
    ("launcher", "number", "code", "status", "said"),
    [
        ("mpirun", signal.SIGTERM, LISTENS, 75, "told to end by SIGTERM, and have saved"),
        *(
            pytest.param(launcher, *case, marks=pytest.mark.long)
            for launcher in LAUNCHERS
            for case in (
                (signal.SIGINT, LISTENS, 75, "told to end by Ctrl-C, and have saved"),
                (signal.SIGUSR1, LISTENS, 75, "told to end by SIGUSR1, and have saved"),
                (signal.SIGINT, DEAF, 130, "the job was ended by Ctrl-C, and nothing says"),
                (signal.SIGTERM, DEAF, 143, "the job was ended by SIGTERM, and nothing says"),
            )
        ),
    ],
)
def test_asked_to_end(
    launcher: str, number: int, code: str, status: int, said: str, tmp_path: Path
) -> None:
    options = ["-np", "2", "--launcher", launcher, "--restarts", "2"]
    with started(*options, *script(code), logs=tmp_path) as (job, printed):
        for rank in (0, 1):
            wait_for(tmp_path / f"rank{rank}.log", "READY")
        # As the terminal does: to all processes of its foreground.
        os.killpg(job.pid, number)
        assert job.wait(30) == status, printed.read_text()
        text = printed.read_text()
        assert said in text
        assert "starting again" not in text
        assert ("saved" in (tmp_path / "rank1.log").read_text()) == (code is LISTENS)


@pytest.mark.long
def test_a_terminal_that_closes_is_nothing_to_nohup(tmp_path: Path) -> None:
    code = "print('READY', flush=True); time.sleep(2)"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with started("-np", "1", *script(code), logs=tmp_path) as (job, printed):
            wait_for(tmp_path / "rank0.log", "READY")
            job.send_signal(signal.SIGHUP)
            assert job.wait(30) == 0, printed.read_text()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.long
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_second_signal_ends_what_does_not_listen(launcher: str, tmp_path: Path) -> None:
    options = ["-np", "2", "--launcher", launcher]
    with started(*options, *script(STUBBORN), logs=tmp_path) as (job, printed):
        for times, text in ((1, "READY"), (1, "not now")):
            for rank in (0, 1):
                wait_for(tmp_path / f"rank{rank}.log", text, times)
            assert job.poll() is None
            job.send_signal(signal.SIGINT)
        assert job.wait(30) == 130, printed.read_text()
