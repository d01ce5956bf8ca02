"""Frames between a rank and the supervisor, over TCP: one byte for the kind, a length, the content.

Nothing that is read is executed.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

Message = dict[str, Any]

# Kinds of frames: what the script has printed, and a JSON object.
OUT, ERR, NEWS = b"o", b"e", b"n"

BEAT: Message = {"type": "beat"}
BEAT_SECONDS = 2.0

# The rank finds the supervisor by these variables: addresses and a port, and a shared secret.
ADDRESS_VARIABLE = "HVDKIT_RUN_SUPERVISOR"
TOKEN_VARIABLE = "HVDKIT_RUN_TOKEN"

_HEADER = struct.Struct("!cI")
_LONGEST = 2**20
_READ_BYTES = 2**16


class Wire:
    """A connection that carries frames, and never blocks.

    Args:
        connection: a connected TCP socket.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(False)
        self._connection = connection
        self._unsent = bytearray()
        self._unread = bytearray()
        self._lock = threading.Lock()

    def fileno(self) -> int:
        """For selectors."""
        return self._connection.fileno()

    @property
    def unsent(self) -> int:
        """Bytes that the other side has not taken yet."""
        return len(self._unsent)

    def tell(self, message: Message) -> None:
        """Send a message; see `send`."""
        self.send(NEWS, json.dumps(message).encode())

    def send(self, kind: bytes, content: bytes) -> None:
        """Send a frame as far as the other side takes it, and the rest by `flush`; any thread may.

        Raises:
            ConnectionError: the other side is gone.
        """
        with self._lock:
            self._unsent += _HEADER.pack(kind, len(content)) + content
        self.flush()

    def flush(self) -> None:
        """Send what is unsent as far as the other side takes it.

        Raises:
            ConnectionError: the other side is gone.
        """
        with self._lock:
            try:
                while self._unsent:
                    del self._unsent[: self._connection.send(self._unsent)]
            except BlockingIOError:
                return
            except OSError as error:
                raise ConnectionError(str(error)) from error

    def receive(self) -> Iterator[tuple[bytes, bytes]]:
        """The frames that have come; call it when the socket is readable.

        Raises:
            ConnectionError: the other side is gone, or sends something else than frames.
        """
        try:
            data = self._connection.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            raise ConnectionError(str(error)) from error
        self._unread += data
        while len(self._unread) >= _HEADER.size:
            kind, length = _HEADER.unpack_from(self._unread)
            if kind not in (OUT, ERR, NEWS) or length > _LONGEST:
                raise ConnectionError("no frame")
            end = _HEADER.size + length
            if len(self._unread) < end:
                break
            content = bytes(self._unread[_HEADER.size : end])
            del self._unread[:end]
            yield kind, content
        if not data:
            raise ConnectionError("closed")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def parsed(content: bytes) -> Message:
    """The message in a frame.

    Raises:
        ConnectionError: it is none.
    """
    try:
        message = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ConnectionError(f"no message: {error}") from error
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise ConnectionError("no message")
    return message
