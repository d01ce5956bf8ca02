"""What a request is refused with."""

from __future__ import annotations

from collections.abc import Mapping


class Problem(Exception):
    """A request that is not answered with tensors.

    Args:
        status: of HTTP.
        reason: one word for logs and figures, which holds nothing of the request.
        message: for the client; it may hold what the client has sent.
        headers: more headers of the answer.
    """

    def __init__(
        self, status: int, reason: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.headers = dict(headers or {})


def malformed(message: str) -> Problem:
    """The problem of a request that is not what the protocol or the model asks for."""
    return Problem(400, "malformed", message)


def too_large(message: str) -> Problem:
    """The problem of a request beyond a limit."""
    return Problem(413, "too_large", message)


def late(message: str = "the deadline has passed.") -> Problem:
    """The problem of an answer that was not there in time."""
    return Problem(504, "deadline", message)


def not_started(why: str) -> Problem:
    """The problem of a request to a version whose process is lost and can't be started again."""
    message = f"the model's process was lost, and can't be started again: {why}"
    return Problem(503, "not_ready", message, {"Retry-After": "1"})


def stopping() -> Problem:
    """The problem of a request to a version that is let go, or to a server that stops."""
    return Problem(503, "stopping", "the server stops.", {"Retry-After": "1"})
