"""Who may ask: those with a token, but for health, which is anybody's."""

from __future__ import annotations

import hmac
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from hvdkit.serving.figures import Figures

OPEN = frozenset({"/v2/health/live", "/v2/health/ready"})


class TokenError(Exception):
    """A file of tokens can't be used; the message says why."""


def read_tokens(path: Path) -> tuple[str, ...]:
    """The tokens of a file, one a line.

    Raises:
        TokenError: it can't be read, others can, or it holds none.
    """
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
        text = path.read_text("ascii")
    except OSError as error:
        raise TokenError(f"{path} can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise TokenError(f"{path} holds more than ASCII characters.") from error
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        raise TokenError(f"others can read or write {path} (its mode is {mode:04o}).")
    tokens = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not tokens:
        raise TokenError(f"{path} holds no token.")
    if any(" " in token or not token.isprintable() for token in tokens):
        raise TokenError(f"{path} holds a line that is no token: it has a blank in it.")
    return tokens


class Access:
    """Lets requests with a token through, and answers 401 to the others.

    Args:
        app: what is behind it.
        tokens: any of which will do; none: everything is let through.
        figures: to count in.
    """

    def __init__(self, app: ASGIApp, tokens: Sequence[str], figures: Figures) -> None:
        self._app = app
        self._tokens = [token.encode() for token in tokens]
        self._figures = figures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if not self._tokens or scope["path"] in OPEN or self._is_allowed(scope):
            await self._app(scope, receive, send)
            return
        self._figures.refused("token")
        refusal = JSONResponse(
            {"error": "this needs a token: Authorization: Bearer TOKEN."},
            status_code=401,
            headers={"WWW-Authenticate": "Bearer"},
        )
        await refusal(scope, receive, send)

    def _is_allowed(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) != 1:
            return False
        scheme, _, token = given[0].partition(b" ")
        # All of them are compared, each in a time that does not tell how much of it is right.
        same = [hmac.compare_digest(token.strip(), each) for each in self._tokens]
        return scheme.lower() == b"bearer" and any(same)
