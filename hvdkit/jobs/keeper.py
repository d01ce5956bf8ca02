"""A rank's process, and who looks after it: starts it, passes on what it prints, sees its end."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from hvdkit.jobs.rows import RowServer, Serve
from hvdkit_cli.building.process import end_tree
from hvdkit_cli.rank import CALL, Ended, read_ended

_LINES_KEPT = 60
_READ_SECONDS = 5.0
_ASKED_EVERY_SECONDS = 1.0


@dataclass(frozen=True)
class Outcome:
    """How the process of a rank ended.

    Attributes:
        status: its exit status; the number of a signal, negative, where that has ended it.
        ended: what it wrote down at its end; None where it could not.
        host: where it ran.
        pid: its number there; 0 where its keeper was lost, and cannot tell.
        lines: the last that it printed, or how its keeper was lost.
    """

    status: int
    ended: Ended | None
    host: str
    pid: int
    lines: list[str] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether the function did not return."""
        return self.ended is None or bool(self.ended.text)


def keep(
    call: bytes,
    env: Mapping[str, str],
    name: str,
    serve: Serve | None = None,
    is_over: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Run a rank in a process of its own until it ends; if this process ends, so does the rank.

    Args:
        call: the pickled function with its arguments, see `hvdkit_cli.rank.CALL`.
        env: variables of its environment, beside those of this process.
        name: in brackets before each line that it prints.
        serve: where to find the rows of a rank, see `hvdkit.jobs.rows`.
        is_over: asked every second; ends the rank when the others have failed.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hvdkit-rank-")))
        (folder / CALL).write_bytes(call)
        more = {}
        if serve is not None:
            more = stack.enter_context(RowServer(folder, serve)).environment()
        process = subprocess.Popen(
            [sys.executable, "-m", "hvdkit.jobs.process", str(folder), str(os.getpid())],
            env={**os.environ, **env, **more, "PYTHONPATH": _search_path(env)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        lines: deque[str] = deque(maxlen=_LINES_KEPT)
        reader = threading.Thread(target=_pass_on, args=(process.stdout, name, lines), daemon=True)
        reader.start()
        try:
            status = _waited(process, is_over)
        finally:
            if process.poll() is None:
                end_tree(process.pid)
        reader.join(_READ_SECONDS)  # what it has started itself may still hold the pipe
        return Outcome(
            status, read_ended(folder, 0), socket.gethostname(), process.pid, list(lines)
        )


def _waited(process: subprocess.Popen[str], is_over: Callable[[], bool]) -> int:
    while True:
        try:
            return process.wait(_ASKED_EVERY_SECONDS)
        except subprocess.TimeoutExpired:
            if is_over():
                end_tree(process.pid)


def _pass_on(printed: IO[str], name: str, lines: deque[str]) -> None:
    for line in printed:
        lines.append(line.rstrip("\n"))
        print(f"[{name}] {line}", end="", flush=True)


def _search_path(env: Mapping[str, str]) -> str:
    """What this process can import, the rank can; but not what a system brings for itself."""
    given = env.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join(dict.fromkeys(path for path in [*given, *_own_path()] if path))


def _own_path() -> Iterator[str]:
    for path in sys.path:
        if "thirdparty_files" not in path:  # Ray's own copies of psutil and others
            yield path or os.getcwd()
