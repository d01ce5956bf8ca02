"""Run a job of several ranks for a benchmark, and show what it prints as it does."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Mapping
from typing import Any

from jobs import command, started

from hvdkit_cli.building.process import end_tree


def watch_job(
    launcher: str,
    ranks: int,
    arguments: list[str],
    marker: str,
    on_line: Callable[[str], None],
    env: Mapping[str, str] | None = None,
    timeout: float = 240,
) -> Any:
    """Run a worker on several ranks, to its end, and tell what it prints as it does.

    Whatever ends this call early, or this process, ends the job.

    Args:
        launcher: "mpi" or "gloo".
        ranks: number of ranks.
        arguments: the worker's file in this folder, and its arguments.
        marker: the word before the JSON that a rank prints.
        on_line: called with each other line.
        env: more variables of the environment.
        timeout: seconds until the job is ended.

    Returns:
        What the JSON says.

    Raises:
        RuntimeError: the job failed, or took too long; the message holds its last lines.
    """
    process = started(command(launcher, ranks, arguments), env, subprocess.PIPE, subprocess.STDOUT)
    watch = threading.Timer(timeout, end_tree, [process.pid])
    watch.start()
    found, printed = None, []
    try:
        for line in process.stdout or ():
            if line.startswith(f"{marker} "):
                found = json.loads(line.removeprefix(f"{marker} "))
            else:
                printed.append(line.rstrip())
                on_line(line.rstrip())
        status = process.wait()
    finally:
        watch.cancel()
        if process.poll() is None:
            end_tree(process.pid)
    if status or found is None:
        last = "\n".join(printed[-30:])
        raise RuntimeError(f"{arguments} ended with {status}, after {timeout:g} s at most:\n{last}")
    return found
