"""What `hvdkit run` shows, and what it keeps in the logs."""

from __future__ import annotations

import os
import pty
import random
import select
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from launch import environment, run_command
from run_jobs import HVDKIT, LAUNCHERS, run, script

from hvdkit_cli.run import screen as screen_module
from hvdkit_cli.run.noise import NoiseFilter
from hvdkit_cli.run.sayings import Sayings
from hvdkit_cli.run.screen import Everything, Quiet, Screen, Terminal

NOISE = (
    b"2026-11-27 00:07:00.123456: I tensorflow/core/util/port.cc:153] oneDNN custom operations\n",
    b"2026-11-27 00:07:00.1: I tensorflow/core/platform/cpu_feature_guard.cc:210] This TF\n",
    b"To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow\n",
    b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n",
    b"E0000 00:00:1764202020.123456    4321 cuda_dnn.cc:8579] Unable to register cuDNN factory: \n",
    b"2026-11-27 00:07:00.1: E external/local_xla/fft.cc:7] Unable to register cuFFT factory\n",
    b"W0000 00:00:1764202020.1    99 placer.cc:177] computation placer already registered\n",
    b"I0000 00:00:1764202020.123456    4321 service.cc:152] XLA service 0x7f initialized\n",
)  # fmt: skip
WANTED = (
    b"2026-11-27 00:07:00.1: E tensorflow/core/kernels/op.cc:12] something that matters\n",
    b"W0000 00:00:1764202020.123456    4321 op.cc:1] a warning of another kind\n",
    b"2026-11-27 is a day\n",
    b"I0000 is no log\n",
    b"I1127 01:47:00.123456 140234 train.py:12] the script's own log, by absl\n",
    b"To enable the following instructions: press q\n",
    b"\rEpoch 1: 10%\rEpoch 1: 20%",
    b"\x08\x08\x08 loss: 0.1\n",
    b"\n",
    b"\xff\xfe no text\n",
)
BLOCK = b"===== hvdkit: the job failed =====\nrank 1 is gone\n==================================\n"


@pytest.mark.quick
@pytest.mark.parametrize("seed", range(5))
def test_noise_is_left_out_however_it_comes(seed: int) -> None:
    """The lines in any order, in chunks that cut what is wanted wherever they like."""
    rng = random.Random(seed)
    lines = [*NOISE, *WANTED[:6], *WANTED[7:]] * 3
    rng.shuffle(lines)
    passed, filter_ = [], NoiseFilter()
    for line in lines:
        cuts = sorted(rng.sample(range(20, len(line)), 1)) if len(line) > 21 else []
        for start, end in zip([0, *cuts], [*cuts, len(line)], strict=True):
            passed.append(filter_.passed(line[start:end]))
    assert b"".join(passed) == b"".join(line for line in lines if line not in NOISE)


@pytest.mark.quick
def test_what_is_no_noise_is_not_held_back() -> None:
    filter_ = NoiseFilter()
    for part in (b"\rEpoch 1: 10%", b"\rEpoch 1: 20%", b"Tra", b"ceback\n", b"2026 is"):
        assert filter_.passed(part) == part
    assert filter_.passed(b"\n2026-11-27 00:07:00 a date of the script's own") == b"\n"
    assert filter_.held() == b"2026-11-27 00:07:00 a date of the script's own"
    assert filter_.passed(b" I tensorflow/core/a.cc:1] \n") == b" I tensorflow/core/a.cc:1] \n"


@pytest.mark.quick
def test_sayings_come_whole_or_not_at_all() -> None:
    text = b"noise\n" + BLOCK + b"hvdkit: a note\nhvdkit: cut"
    sayings = Sayings()
    found = [found for i in range(len(text)) for found in sayings.found(text[i : i + 1])]
    assert found == [BLOCK, b"hvdkit: a note\n"]


@pytest.mark.quick
def test_one_message_of_several_ranks(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ranks of each host say why a job fails, and notes are alike on all ranks."""
    monkeypatch.setattr(screen_module, "_PATIENCE_SECONDS", 0.05)
    screen = Quiet(Terminal(), filters=True)
    for rank in ("rank1", "rank2"):
        screen.printed(rank, b"hvdkit: a note\nanything else\n" + BLOCK, is_error=True)
        screen.printed(rank, b"printed", is_error=False)
    time.sleep(0.1)
    screen.look()
    screen.printed("rank3", b"hvdkit: a note\nhvdkit: another\n" + BLOCK, is_error=True)
    assert screen.close()
    shown = capfd.readouterr()
    assert shown.err == "hvdkit: a note\n" + BLOCK.decode() + "hvdkit: another\n"
    assert shown.out == ""


@pytest.mark.quick
def test_what_rank_0_says_is_not_said_again(capfd: pytest.CaptureFixture[str]) -> None:
    screen = Quiet(Terminal(), filters=True)
    screen.printed("rank1", BLOCK, is_error=True)
    screen.printed("rank0", b"a\rb" + NOISE[0] + b"\n" + BLOCK, is_error=True)
    screen.printed("rank0", b"\xff\r", is_error=False)
    assert screen.close()
    assert capfd.readouterr().err.count("rank 1 is gone") == 1


@pytest.mark.quick
def test_a_terminal_that_is_gone_ends_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        Terminal().write(writer, b"nobody reads")
    finally:
        os.close(writer)


@pytest.mark.quick
def test_a_pipe_that_does_not_block_loses_nothing() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    data = bytes(range(256)) * 4096
    read = bytearray()

    def slowly() -> None:
        while chunk := os.read(reader, 10_000):
            time.sleep(0.001)
            read.extend(chunk)

    thread = threading.Thread(target=slowly)
    thread.start()
    Terminal().write(writer, data)
    os.close(writer)
    thread.join(30)
    os.close(reader)
    assert bytes(read) == data


@pytest.mark.quick
def test_a_reader_that_has_stopped_is_waited_for_until_the_job_is_told_to_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(screen_module, "_STALLED_SECONDS", 0.3)
    reader, writer = os.pipe()
    terminal, told = Terminal(), threading.Event()
    terminal.is_told_to_end = told.is_set
    thread = threading.Thread(target=terminal.write, args=(writer, bytes(10**6)))
    thread.start()
    thread.join(1)
    assert thread.is_alive()
    told.set()
    thread.join(5)
    assert not thread.is_alive()
    os.close(reader)
    os.close(writer)


@pytest.mark.quick
@pytest.mark.parametrize("begin", [b"", NOISE[0][:30]])
@pytest.mark.parametrize("kind", [Everything, lambda terminal: Quiet(terminal, filters=True)])
def test_a_line_without_an_end_is_not_held_back(
    kind: Callable[[Terminal], Screen], begin: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    screen = kind(Terminal())
    screen.printed("rank0", begin, is_error=True)
    for _ in range(100):
        screen.printed("rank0", b"x" * 2**15, is_error=True)
    shown = capfd.readouterr().err.count("x")
    assert 100 * 2**15 - shown <= 2**16
    screen.close()
    assert shown + capfd.readouterr().err.count("x") == 100 * 2**15


PRINTS = f"""
for line in {NOISE!r}:
    os.write(2, line)
os.write(2, b"warning of %d\\n" % rank)
os.write(1, b"\\rstep 1\\rstep 2 \\xff")
print(rank)
"""


@pytest.mark.parametrize("launcher", ["mpirun", pytest.param("gloo", marks=pytest.mark.long)])
def test_the_terminal_shows_rank_0_as_it_is_and_the_logs_have_all(
    launcher: str, tmp_path: Path
) -> None:
    options = ["-np", "2", "--launcher", launcher]
    job = run(*options, *script(PRINTS), logs=tmp_path, env={"TF_CPP_MIN_LOG_LEVEL": "1"})
    job.require_success()
    first, *rest = job.output.splitlines()
    assert first.startswith("hvdkit run: 2 ranks on localhost (2) by ")
    assert first.endswith(f"; logs in {tmp_path}")
    # Standard output and standard error come to the terminal at different moments.
    assert sorted(rest) in (
        ["", "step 1", "step 2 \ufffd0", "warning of 0"],
        ["step 1", "step 2 \ufffd0", "warning of 0"],
    ), job.describe()
    for rank in (0, 1):
        log = (tmp_path / f"rank{rank}.log").read_bytes()
        assert all(line in log for line in NOISE)
        assert b"\rstep 1\rstep 2 \xff%d\n" % rank in log


@pytest.mark.long
def test_all_output_has_the_rank_before_each_line(tmp_path: Path) -> None:
    code = "print('out', rank); print('err', rank, end='', file=sys.stderr)"
    job = run("-np", "2", "--all-output", *script(code), logs=tmp_path).require_success()
    for line in ("[0] out 0", "[1] out 1", "[0] err 0", "[1] err 1"):
        assert job.output.count(line + "\n") == 1, job.describe()


@pytest.mark.long
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_rank_0_reads_what_is_given(launcher: str, tmp_path: Path) -> None:
    code = "print(input().upper()) if rank == 0 else None"
    command = f"printf 'hello\\n' | {' '.join(HVDKIT)} -np 2 --launcher {launcher}"
    shell = f'{command} --log-dir {tmp_path} -- {sys.executable} -c "$CODE"'
    env = {"CODE": script(code)[-1]}
    job = run_command(["bash", "-c", shell], timeout=30, env=env).require_success()
    assert "HELLO" in job.output, job.describe()


@pytest.mark.long
@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize(
    ("code", "waits_for", "typed", "status", "shown"),
    [
        (
            "print('ASK', input().upper()) if rank == 0 else None",
            b"logs in",
            b"hello\n",
            0,
            b"HELLO",
        ),
        ("print('READY'); time.sleep(60)", b"READY", b"\x03", 130, b"ended by Ctrl-C"),
    ],
)
def test_at_a_terminal(
    launcher: str,
    code: str,
    waits_for: bytes,
    typed: bytes,
    status: int,
    shown: bytes,
    tmp_path: Path,
) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        options = ["-np", "2", "--launcher", launcher, "--log-dir", str(tmp_path), *script(code)]
        os.execvpe(HVDKIT[0], [*HVDKIT, *options], environment())
    printed, end = b"", time.monotonic() + 40
    while time.monotonic() < end:
        if not select.select([terminal], [], [], 0.1)[0]:
            continue
        try:
            printed += os.read(terminal, 4096)
        except OSError:  # it has ended
            break
        if typed and waits_for in printed:
            os.write(terminal, typed)
            typed = b""
    os.close(terminal)  # what still runs gets SIGHUP
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == status, printed
    assert shown in printed


@pytest.mark.long
def test_much_output_of_all_ranks_is_complete(tmp_path: Path) -> None:
    code = "for i in range(200_000): print(rank, i)"
    env = {"PYTHONUNBUFFERED": ""}
    job = run("-np", "2", *script(code), logs=tmp_path, env=env, timeout=90).require_success()
    for rank in (0, 1):
        lines = (tmp_path / f"rank{rank}.log").read_text().splitlines()
        assert lines[1:] == [f"{rank} {i}" for i in range(200_000)]
    assert job.output.count("\n") == 200_001


def test_logs_that_can_not_be_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    job = run("-np", "1", *script(""), logs=file, timeout=30)
    assert job.status == 1, job.describe()
    assert f"error: The logs can't be written to {file}: File exists." in job.output
