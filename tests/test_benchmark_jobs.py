"""What benchmarks start ends with them, however they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from launch import LAUNCHERS, ROOT

SLEEPS = """
import os, pathlib, sys, time
pathlib.Path(sys.argv[1], str(os.getpid())).touch()
time.sleep(100)
"""


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_ranks_end_with_their_benchmark(
    launcher: str, number: signal.Signals, tmp_path: Path
) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(SLEEPS)
    started = tmp_path / "started"
    started.mkdir()
    code = (
        f"from jobs import run_job; run_job({launcher!r}, 2, {[str(worker), str(started)]}, 'NONE')"
    )
    path = os.pathsep.join([str(ROOT / "benchmarks"), str(ROOT)])
    with subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}
    ) as p:
        wait_for(lambda: len(list(started.iterdir())) == 2)
        p.send_signal(number)
        assert p.wait(30) == (143 if number == signal.SIGTERM else -number)
    ranks = [int(file.name) for file in started.iterdir()]
    wait_for(lambda: not any(map(psutil.pid_exists, ranks)))


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)
