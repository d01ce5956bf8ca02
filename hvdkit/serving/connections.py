"""Connections that nobody can keep by being slow; around uvicorn's, which has no such limits."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import h11
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from hvdkit.serving.settings import Limits

_LATE = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Connection(H11Protocol):
    """A connection whose client has to send heads, and to take answers, within some time."""

    limits: ClassVar[Limits] = Limits()
    _head: asyncio.TimerHandle | None = None
    _taking: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._expect_head()
        else:
            self._stop_expecting()

    def on_response_complete(self) -> None:
        """See uvicorn: what came of the next head before is waited for as any other."""
        super().on_response_complete()
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._stop_expecting()
        self._stop_watching()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`: the client takes less than there is for it."""
        super().pause_writing()
        self._expect_taking()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._stop_watching()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Close what has been idle; a client that has not taken its answer does not get it."""
        super().timeout_keep_alive_handler()
        self._expect_taking()

    def _expect_head(self) -> None:
        if self._head is None:
            self._head = self.loop.call_later(self.limits.read, self._give_up)

    def _stop_expecting(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _give_up(self) -> None:
        self._head = None
        if not self.transport.is_closing():
            self.transport.write(_LATE)
            self.transport.close()
            self._expect_taking()

    def _expect_taking(self, left: int | None = None) -> None:
        """End the connection once nothing of what is left was taken for some time."""
        size = self.transport.get_write_buffer_size()
        if left is not None and size >= left:
            self.transport.abort()
        elif size:
            self._stop_watching()
            self._taking = self.loop.call_later(self.limits.idle, self._expect_taking, size)

    def _stop_watching(self) -> None:
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None


def limited(limits: Limits) -> type[Connection]:
    """The class of connections with these limits."""
    return type("LimitedConnection", (Connection,), {"limits": limits})


class ClosesUnread:
    """Closes the connection after an answer to a request whose body was not read to its end.

    Otherwise the web server would read on, whatever its length.

    Args:
        app: what answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        headers = dict(scope["headers"])
        unread = b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"

        async def reading() -> Message:
            nonlocal unread
            message = await receive()
            unread = unread and message.get("more_body", False)
            return message

        async def sending(message: Message) -> None:
            if unread and message["type"] == "http.response.start":
                kept = [each for each in message["headers"] if each[0].lower() != b"connection"]
                message = {**message, "headers": [*kept, (b"connection", b"close")]}
            await send(message)

        await self._app(scope, reading, sending)
