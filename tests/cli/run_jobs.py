"""Jobs of `hvdkit run`, and launchers that do what real ones should not."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from launch import Finished, end_job, run_command, start_command

# Not `python -m hvdkit`, which imports hvdkit, and so sets the level of TensorFlow's log.
HVDKIT = [f"{sysconfig.get_path('scripts')}/hvdkit", "run"]
# What the launchers call a rank.
RANK = "import os; rank = int(os.environ.get('OMPI_COMM_WORLD_RANK') or os.environ['HOROVOD_RANK'])"
LAUNCHERS = ("mpirun", "gloo")

# Starts as many ranks as $COME says, and ends with $STATUS; or not at all, with $HANG.
_MPIRUN = """#!/bin/bash
if [[ $1 == --version ]]; then echo "mpirun (Open MPI) 5.0.11"; exit; fi
ranks=$2
while [[ ${1##*/} != python* ]]; do shift; done
for ((rank = 0; rank < ${COME:-$ranks}; rank++)); do OMPI_COMM_WORLD_RANK=$rank "$@" & done
trap '' TERM
wait
if [[ $HANG ]]; then sleep 1000; fi
exit ${STATUS:-0}
"""


def run(
    *arguments: str,
    logs: Path,
    timeout: float = 60,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Finished:
    """Run `hvdkit run` to its end."""
    command = [*HVDKIT, "--log-dir", str(logs), *arguments]
    return run_command(command, timeout=timeout, env=env, cwd=cwd)


def script(code: str) -> list[str]:
    """What a rank runs: Python code in which `rank` is its number."""
    return ["--", sys.executable, "-c", f"import signal, sys, time\n{RANK}\n{code}"]


@contextmanager
def started(
    *arguments: str, logs: Path, env: Mapping[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A job that runs, and the file into which it prints."""
    with tempfile.NamedTemporaryFile("w") as printed:
        command = [*HVDKIT, "--log-dir", str(logs), *arguments]
        process = start_command(command, printed.file, env)
        try:
            yield process, Path(printed.name)
        finally:
            end_job(process)


def wait_for(file: Path, text: str, times: int = 1, seconds: float = 60) -> None:
    """Wait until a file has a text."""
    end = time.monotonic() + seconds
    while not file.exists() or file.read_text().count(text) < times:
        assert time.monotonic() < end, f"no {text!r} in {file}"
        time.sleep(0.05)


def stand_in(folder: Path, **behaviour: object) -> dict[str, str]:
    """The environment with an mpirun that behaves so."""
    folder.mkdir(exist_ok=True)
    program = folder / "mpirun"
    program.write_text(_MPIRUN)
    program.chmod(0o755)
    path = os.pathsep.join([str(folder), sysconfig.get_path("scripts"), os.environ["PATH"]])
    return {"PATH": path, **{name: str(value) for name, value in behaviour.items()}}
