"""Messages between ranks: one JSON object a line, over TCP. Nothing that is read is executed."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

Message = dict[str, Any]

# Of the ranks that hvdkit ends, unless one of them has ended by itself with another.
EXIT_STATUS = 1
# Of those that end after Ctrl-C, as a shell has it: 128 and the number of SIGINT.
INTERRUPTED = 130

# A traceback of hundreds of frames fits; more is no message of ours.
_LONGEST = 4 * 2**20
_SEND_SECONDS = 2.0


class Line:
    """A connection that carries messages.

    Args:
        connection: a connected TCP socket.

    Attributes:
        rank: who is at the other end, once that is known.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A host that dies closes nothing.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.settimeout(_SEND_SECONDS)
        self.connection = connection
        self.rank: int | None = None
        self._rest = b""

    def fileno(self) -> int:
        """For selectors."""
        return self.connection.fileno()

    def send(self, message: Message) -> bool:
        """Send a message; False if the other side is gone, or takes nothing any more."""
        try:
            self.connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            return False
        return True

    def receive(self) -> Iterator[Message]:
        """The messages that have come; call it when the socket is readable.

        Raises:
            ConnectionError: the other side has closed the connection, or sends something else
                than messages.
        """
        try:
            data = self.connection.recv(65536)
        except OSError as error:
            raise ConnectionError(str(error)) from error
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            yield _parsed(line)
        if not data:
            raise ConnectionError("closed")
        if len(self._rest) > _LONGEST:
            raise ConnectionError("a line without end")

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()


def _parsed(line: bytes) -> Message:
    try:
        message = json.loads(line)
    except ValueError as error:
        raise ConnectionError(f"no message: {error}") from error
    if not isinstance(message, dict):
        raise ConnectionError("no message")
    return message
