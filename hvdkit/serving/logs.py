"""The log: a JSON object a line. It holds nothing that a client has sent, unless told to."""

from __future__ import annotations

import json
import logging
import queue
import sys
import threading
import time
import traceback
from typing import IO, Any

_LONGEST_QUEUE = 10_000


class Log:
    """Lines for machines to read. Whoever writes one never waits for whoever reads it.

    Args:
        stream: where they go.

    Example:
        >>> log = Log(sys.stdout)
        >>> log.info("loaded", model="digits", version=3)
        >>> log.close()
        {"time": "2026-11-27T10:00:00.123Z", "level": "info", "event": "loaded", ...}
    """

    def __init__(self, stream: IO[str] = sys.stdout) -> None:
        self._stream = stream
        self._lines: queue.Queue[str | None] = queue.Queue(_LONGEST_QUEUE)
        self._lost = 0
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def info(self, event: str, **facts: Any) -> None:
        """Say what has happened."""
        self._put("info", event, facts)

    def warning(self, event: str, **facts: Any) -> None:
        """Say what may be a fault."""
        self._put("warning", event, facts)

    def error(self, event: str, **facts: Any) -> None:
        """Say what is a fault."""
        self._put("error", event, facts)

    def close(self) -> None:
        """Write what is left, for a second at most."""
        try:
            self._lines.put(None, timeout=1)
        except queue.Full:
            return
        self._thread.join(timeout=1)

    def _put(self, level: str, event: str, facts: dict[str, Any]) -> None:
        now = time.time()
        stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1000):03}Z"
        line = {"time": stamp, "level": level, "event": event, **facts}
        try:
            self._lines.put_nowait(json.dumps(line))
        except queue.Full:
            self._lost += 1

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            if self._lost:
                lost, self._lost = self._lost, 0
                self._stream.write(json.dumps({"event": "lines_lost", "lines": lost}) + "\n")
            self._stream.write(line + "\n")
            self._stream.flush()


class OfLibraries(logging.Handler):
    """What libraries log, such as the web server's own faults, as lines of a `Log`.

    Of an error only its kind and where it was raised: its text may hold inputs.
    """

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        facts: dict[str, Any] = {"logger": record.name, "message": record.getMessage()[:200]}
        if record.exc_info and record.exc_info[0]:
            facts |= kind_and_place(record.exc_info[1])
        self._log.warning("library", **facts)


def kind_and_place(error: BaseException | None) -> dict[str, Any]:
    """What can be said of an error without its text."""
    if error is None:
        return {}
    frames = traceback.extract_tb(error.__traceback__)[-5:]
    places = [f"{frame.filename}:{frame.lineno}" for frame in frames]
    return {"error": type(error).__name__, "at": places}
