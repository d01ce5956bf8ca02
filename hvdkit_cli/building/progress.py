"""One live line of progress from what a build prints."""

import re
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

_PERCENT = re.compile(r"^\s*\[\s*(\d{1,3})%\]")
# The parts of a build before and after compiling, and the text that shows that each has begun.
_STAGES = (
    ("Running CMake", "configuring"),
    ("Configuring done", "compiling"),
    ("installing to build", "packing the wheel"),
)
_PLAIN_STEP = 10


def parse_percent(line: str) -> int | None:
    """Read make's progress from a line such as "[ 42%] Building CXX object ...".

    Returns:
        Percent done, 0 to 100, or None if the line holds none.
    """
    match = _PERCENT.match(line)
    if match is None:
        return None
    percent = int(match.group(1))
    return percent if percent <= 100 else None


def parse_stage(line: str) -> str | None:
    """Return the name of the part of the build that this line begins, or None."""
    return next((stage for text, stage in _STAGES if text in line), None)


class BuildProgress:
    """Shows a build's progress: a bar on a terminal, else a line at each tenth.

    Args:
        console: Where to show it.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._percent = 0
        self._stage = "preparing"
        self._printed = -1
        self._start = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        """Start the bar, where there is a terminal for it."""
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("Horovod: {task.description:<20}"),
                BarColumn(),
                TextColumn("{task.percentage:3.0f}%"),
                TimeElapsedColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task(self._stage, total=100)
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the bar."""
        if self._bar is not None:
            self._bar.stop()

    def feed(self, line: str) -> None:
        """Take one line of the build's output. Progress never goes back."""
        stage = parse_stage(line)
        percent = parse_percent(line)
        if stage is None and (percent is None or percent <= self._percent):
            return
        self._stage = stage or self._stage
        self._percent = max(self._percent, percent or 0)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=self._stage, completed=self._percent)
            return
        tenth = self._percent // _PLAIN_STEP
        if stage is not None or tenth > self._printed:
            self._printed = tenth
            seconds = time.monotonic() - self._start
            self._console.print(
                f"Horovod: {self._stage} {self._percent:3d}% ({seconds:.0f} s)", highlight=False
            )
