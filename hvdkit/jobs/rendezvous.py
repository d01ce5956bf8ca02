"""Where the ranks of a job find each other: the store that Gloo reads and writes over HTTP.

A value is what a rank wrote for another one, such as its address; nothing here looks into it.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self, cast

GLOBAL = "global"  # all ranks write their addresses here

_WATCH_SECONDS = 10.0  # the watch takes less to end all ranks after one has failed
_NO_WATCH_SECONDS = 1.0  # it has not begun


class Rendezvous:
    """The store, in threads of the driver.

    Use it in a `with` block, which ends them.

    Attributes:
        port: where it listens, on all of the driver's addresses.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, dict[str, bytes]] = defaultdict(dict)
        self._came: dict[int, float] = {}
        self._server = _Server(("", 0), _Handler)
        self._server.store = self
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.port = int(self._server.server_address[1])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def get(self, scope: str, key: str) -> bytes | None:
        """A value; None where there is none yet."""
        with self._lock:
            return self._values[scope].get(key)

    def put(self, scope: str, key: str, value: bytes) -> None:
        """Keep a value."""
        with self._lock:
            self._values[scope][key] = value
            if scope == GLOBAL and key.isdigit():
                self._came.setdefault(int(key), time.monotonic())

    def delete(self, scope: str, key: str) -> None:
        """Forget a value: all ranks that needed it have met."""
        with self._lock:
            self._values[scope].pop(key, None)

    def clear(self) -> None:
        """Forget everything: other ranks are to meet."""
        with self._lock:
            self._values.clear()
            self._came.clear()

    def grace(self, size: int) -> float:
        """Seconds in which the other ranks may end by themselves after one has failed.

        Args:
            size: number of ranks.
        """
        with self._lock:
            return _WATCH_SECONDS if len(self._came) >= size > 1 else _NO_WATCH_SECONDS

    def missing(self, size: int, limit: float) -> list[int]:
        """The ranks that others have waited for in `hvd.init()`, longer than a limit.

        Args:
            size: number of ranks.
            limit: seconds since the first of them came.
        """
        with self._lock:
            if not self._came or time.monotonic() - min(self._came.values()) < limit:
                return []
            return [rank for rank in range(size) if rank not in self._came]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024
    store: Rendezvous


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        value = self._store.get(*self._place())
        self._answer(404 if value is None else 200, value or b"")

    def do_PUT(self) -> None:
        value = self.rfile.read(int(self.headers["Content-Length"]))
        self._store.put(*self._place(), value)
        self._answer(200)

    def do_DELETE(self) -> None:
        self._store.delete(*self._place())
        self._answer(200)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: ranks ask a hundred times a second."""

    @property
    def _store(self) -> Rendezvous:
        return cast(_Server, self.server).store

    def _place(self) -> tuple[str, str]:
        scope, _, key = self.path.strip("/").partition("/")
        return scope, key

    def _answer(self, status: int, value: bytes = b"") -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(value)))
            self.end_headers()
            self.wfile.write(value)
        except ConnectionError:  # the rank has ended meanwhile
            self.close_connection = True
