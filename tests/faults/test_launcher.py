"""A launcher that does not end when the job has failed, or ends before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hvdkit.watch import launcher_guard
from hvdkit.watch.launcher import Launcher

pytestmark = pytest.mark.quick

GUARD = [sys.executable, "-I", "-S", launcher_guard.__file__]
STUBBORN = "trap '' TERM; sleep 60 & echo $!; wait; wait"


def _guard(seconds: float, process: subprocess.Popen[str]) -> subprocess.Popen[bytes]:
    pidfd = os.pidfd_open(process.pid)
    guard = subprocess.Popen([*GUARD, str(seconds), str(pidfd)], pass_fds=[pidfd])
    os.close(pidfd)
    return guard


def test_a_launcher_that_waits_is_ended_with_what_it_started() -> None:
    with subprocess.Popen(["sh", "-c", STUBBORN], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        start = time.monotonic()
        assert _guard(0.3, process).wait(10) == 0
        assert process.wait(5) == -signal.SIGKILL
        assert 0.3 <= time.monotonic() - start < 5
    end = time.monotonic() + 5
    while Path(f"/proc/{child}").exists() and time.monotonic() < end:
        time.sleep(0.01)
    assert not Path(f"/proc/{child}").exists()


def test_one_that_ends_is_left_alone() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 0.2; exit 3"], text=True) as process:
        start = time.monotonic()
        assert _guard(30, process).wait(10) == 0
        assert process.wait(5) == 3
        assert time.monotonic() - start < 10


FIND = """
import os
from hvdkit.watch.launcher import Launcher
os.close(2)
found = Launcher.found()
print(found and (found.name, len(found.processes)), flush=True)
found.say("SAID")
"""


@pytest.mark.parametrize(
    ("name", "shown"), [("prterun", "('prterun', 1)SAID"), ("prted", "('prted', 1)")]
)
def test_the_launcher_is_found_by_its_name(tmp_path: Path, name: str, shown: str) -> None:
    """Also where a shell is between it and the rank."""
    program = tmp_path / name
    # The name of a script is that of the process which runs it.
    program.write_text('#!/bin/sh\nsh -c \'"$@"; exit $?\' sh "$@"\nexit $?\n')
    program.chmod(0o755)
    done = subprocess.run(
        [str(program), sys.executable, "-c", FIND], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() + done.stderr.strip() == shown


def test_there_is_none_here() -> None:
    assert Launcher.found() is None
