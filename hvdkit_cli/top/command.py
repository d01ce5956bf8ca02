"""Reads what a job writes, and shows it each second."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from rich.console import Console
from rich.live import Live

from hvdkit.monitoring.sinks.lines import LineReader
from hvdkit_cli.errors import CommandError
from hvdkit_cli.top.picture import picture
from hvdkit_cli.top.seen import Seen

_SECONDS = 1.0
_WIDTH_OF_A_FILE = 130


def top(folder: Path, *, once: bool) -> None:
    """Show a job until Ctrl-C, or once.

    Args:
        folder: where it writes (`hvd.monitoring.JsonLines`).
        once: print, and return.

    Raises:
        CommandError: there is nothing to show.
    """
    reader, seen = LineReader(folder), Seen()
    console = Console()
    _read(reader, seen)
    if once or not console.is_terminal:
        width = None if console.is_terminal else _WIDTH_OF_A_FILE
        Console(width=width).print(picture(seen, time.time()))
        return
    with contextlib.suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(picture(seen, time.time(), console.height), refresh=True)
            time.sleep(_SECONDS)
            _read(reader, seen)


def _read(reader: LineReader, seen: Seen) -> None:
    try:
        seen.take(reader.new_lines())
    except FileNotFoundError:
        raise CommandError(
            f"there is no {reader.path}.",
            "name the folder that the script gives to hvd.monitoring.JsonLines; the file is there "
            "once the training has begun",
        ) from None
    except OSError as error:
        raise CommandError(
            f"{reader.path} can't be read: {error.strerror}.", "ask its owner for the right to"
        ) from error
    if seen.job is None and seen.steps is None:
        raise CommandError(
            f"{reader.path} has no figures of a job.",
            "name the folder that the script gives to hvd.monitoring.JsonLines",
        )
