"""Run a long program with its output in a log, and leave nothing of it behind."""

import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import psutil

from hvdkit_cli.run.script import end_with_parent

_GRACE = 5.0


def run_logged(
    command: list[str],
    env: Mapping[str, str],
    log: Path,
    on_line: Callable[[str], None] = lambda line: None,
) -> int:
    """Run a program, its standard output and error going to the end of `log`.

    Args:
        command: The program and its arguments.
        env: Its whole environment.
        log: The file to append to.
        on_line: Called with each line as it appears.

    Returns:
        The exit status. Whatever ends this call early, an interrupt too, ends the program.
    """
    with log.open("a", errors="replace") as file:
        file.write(f"$ {' '.join(command)}\n")
        file.flush()
        process = subprocess.Popen(
            command,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        try:
            for line in process.stdout or ():
                file.write(line)
                file.flush()
                on_line(line)
            return process.wait()
        finally:
            if process.poll() is None:
                end_tree(process.pid)


def run_for(command: list[str], env: Mapping[str, str], timeout: float) -> tuple[int | None, str]:
    """Run a program for some time at most, and no longer than this process.

    Args:
        command: The program and its arguments.
        env: Its whole environment.
        timeout: Seconds after which it is ended.

    Returns:
        The exit status, None if it had to be ended, and what was printed.
    """
    with tempfile.TemporaryFile("w+", errors="replace") as printed:
        process = subprocess.Popen(
            command,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: end_with_parent(signal.SIGTERM),
        )
        try:
            status: int | None = process.wait(timeout)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            if process.poll() is None:
                end_tree(process.pid)
        printed.seek(0)
        return status, printed.read()


def end_tree(pid: int) -> None:
    """End a process and everything it started: first politely, after some seconds by force.

    Args:
        pid: A process that this one started.
    """
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    _signal(family, "terminate")
    _, alive = psutil.wait_procs(family, timeout=_GRACE)
    _signal(alive, "kill")
    psutil.wait_procs(alive, timeout=_GRACE)


def tail(log: Path, lines: int = 30) -> str:
    """Return the last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def log_path(folder: Path, name: str) -> Path:
    """Return a new log file's path, named by the time; the folder is made."""
    folder.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    path = folder / f"{name}-{stamp}.log"
    number = 1
    while path.exists():
        path = folder / f"{name}-{stamp}-{number}.log"
        number += 1
    return path


def _signal(processes: Iterable[psutil.Process], action: str) -> None:
    for process in processes:
        try:
            getattr(process, action)()
        except psutil.Error:
            continue
