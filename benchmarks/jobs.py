"""Start jobs of several ranks for a benchmark."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LAUNCHERS = {
    "mpi": ["mpirun", "--oversubscribe", "--bind-to", "none", "-np"],
    "gloo": ["horovodrun", "--gloo", "-np"],
}


def run_job(launcher: str, ranks: int, arguments: list[str], marker: str) -> list[dict[str, Any]]:
    """Run a worker on several ranks.

    Args:
        launcher: "mpi" or "gloo".
        ranks: number of ranks.
        arguments: the worker's file in this folder, and its arguments.
        marker: the word before each JSON object that a rank prints.

    Returns:
        The objects that the ranks printed.

    Raises:
        RuntimeError: the job failed; the message holds its output.
    """
    env = dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3", HVDKIT_LOG_LEVEL="WARNING")
    env["PATH"] = sysconfig.get_path("scripts") + os.pathsep + env["PATH"]
    env["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), str(HERE)])
    if os.geteuid() == 0:
        env["OMPI_ALLOW_RUN_AS_ROOT"] = env["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1"
    worker = [sys.executable, str(HERE / arguments[0]), *arguments[1:]]
    done = subprocess.run(
        [*LAUNCHERS[launcher], str(ranks), *worker],
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    found = [
        json.loads(line.split(marker, 1)[1])
        for line in done.stdout.splitlines()
        if f"{marker} {{" in line
    ]
    if done.returncode or not found:
        raise RuntimeError(f"{' '.join(worker)} failed:\n{done.stdout}\n{done.stderr}")
    return found
