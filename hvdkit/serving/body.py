"""Reads the body of a request: no more than is allowed, and no longer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import Request

from hvdkit.serving.problems import Problem, too_large
from hvdkit.serving.settings import MIB, Limits


class Bodies:
    """The bodies of all requests that are read, wait or run.

    Args:
        limits: for each of them, and for all together.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held = 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Read a body, and count it until the block ends.

        Raises:
            Problem: it is compressed (415), too large (413), too slow (408), or there is no room
                for it now (429).
            ClientDisconnect: the client has gone.
        """
        self._check(request)
        own = 0
        try:
            chunks = []
            async with asyncio.timeout(self._limits.read) as limit:
                async for chunk in request.stream():
                    own += len(chunk)
                    self._held += len(chunk)
                    if own > self._limits.body:
                        raise self._beyond()
                    if self._held > self._limits.bodies:
                        raise _no_room()
                    chunks.append(chunk)
                limit.reschedule(None)
            yield b"".join(chunks)
        except TimeoutError:
            if not limit.expired():
                raise
            message = f"the body was not there within {self._limits.read:g} s."
            raise Problem(408, "slow_body", message) from None
        finally:
            self._held -= own

    def _check(self, request: Request) -> None:
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise Problem(415, "compressed", "compressed requests are not taken.")
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > self._limits.body:
            raise self._beyond()

    def _beyond(self) -> Problem:
        return too_large(f"the body is larger than {self._limits.body / MIB:g} MiB.")


def _no_room() -> Problem:
    return Problem(
        429,
        "no_room",
        "the server holds as many bytes of requests as it may: try again later.",
        {"Retry-After": "1"},
    )
