"""A server from its start to its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
import socket
import ssl
from collections.abc import Iterator, Sequence

import uvicorn

from hvdkit.serving.application import application
from hvdkit.serving.connections import limited
from hvdkit.serving.figures import Figures
from hvdkit.serving.logs import Log, OfLibraries
from hvdkit.serving.models import Models
from hvdkit.serving.process import COMMAND
from hvdkit.serving.repository import LAYOUT, look
from hvdkit.serving.settings import Settings

_BACKLOG = 2048


class StartError(Exception):
    """A server can't start.

    Args:
        message: why.
        remedy: what to do about it.
    """

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


def run(settings: Settings, command: Sequence[str] = COMMAND) -> None:
    """Serve the models of a folder until SIGTERM or SIGINT, and finish what runs then.

    Args:
        settings: of the server.
        command: that starts the process of a version.

    Raises:
        StartError: the folder, the port or the certificate can't be used.
    """
    _require_models(settings)
    _require_certificate(settings)
    listening = _listen(settings)
    log = Log()
    handler = OfLibraries(log)
    logging.getLogger().addHandler(handler)
    try:
        asyncio.run(_serve(settings, listening, log, command))
    finally:
        logging.getLogger().removeHandler(handler)
        log.close()


async def _serve(
    settings: Settings, listening: socket.socket, log: Log, command: Sequence[str]
) -> None:
    figures = Figures()
    models = Models(settings, figures, log, command)
    limits = settings.limits
    server = _Server(
        uvicorn.Config(
            application(models, settings, figures, log),
            http=limited(limits),
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            h11_max_incomplete_event_size=limits.headers,
            limit_concurrency=limits.connections,
            timeout_keep_alive=math.ceil(limits.idle),
            timeout_graceful_shutdown=math.ceil(settings.running.stop),
            ssl_certfile=settings.certificate,
            ssl_keyfile=settings.key,
        )
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _stop, server, models, log, number)
    host, port = listening.getsockname()[:2]
    scheme = "http" if settings.certificate is None else "https"
    address = f"[{host}]" if ":" in host else host
    log.info("listening", url=f"{scheme}://{address}:{port}", tokens=len(settings.tokens))
    for warning in _warnings(settings):
        log.warning("unprotected", why=warning)
    watching = asyncio.create_task(models.watch())
    watching.add_done_callback(lambda task: _ended(task, server, log))
    try:
        await server.serve(sockets=[listening])
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await models.stop()
        log.info("stopped")
    if not watching.cancelled() and watching.exception():
        raise RuntimeError("the watch of the folder has ended") from watching.exception()


class _Server(uvicorn.Server):
    """Leaves signals to us: after an end that was asked for, the exit status is 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """See `uvicorn.Server`."""
        yield


def _stop(server: uvicorn.Server, models: Models, log: Log, number: int) -> None:
    """Take no more connections; a second signal waits for nothing."""
    log.info("stopping", signal=signal.Signals(number).name)
    server.force_exit = server.should_exit
    server.should_exit = True
    models.leave()


def _ended(watching: asyncio.Task[None], server: uvicorn.Server, log: Log) -> None:
    """A server that no longer follows its folder would lie: it ends instead."""
    if not watching.cancelled() and (error := watching.exception()):
        log.error("fault", error=type(error).__name__)
        server.should_exit = True


def _warnings(settings: Settings) -> Iterator[str]:
    if settings.host in ("127.0.0.1", "::1", "localhost"):
        return
    if not settings.tokens:
        yield "whoever reaches the address may ask: there is no --token-file"
    if settings.certificate is None:
        yield "inputs, outputs and tokens travel in the clear: there is no --cert"


def _require_models(settings: Settings) -> None:
    try:
        found = look(settings.folder)
    except OSError as error:
        message = f"{settings.folder} can't be read: {error.strerror}."
        raise StartError(message, f"name a folder with models: {LAYOUT}") from error
    if not any(found.models.values()):
        unreadable = "".join(
            f" {name} can't be read: {why}." for name, why in found.unreadable.items()
        )
        message = f"{settings.folder} holds no model with a version.{unreadable}"
        raise StartError(message, f"lay it out as {LAYOUT}")


def _require_certificate(settings: Settings) -> None:
    if settings.certificate is None and settings.key is None:
        return
    if settings.certificate is None or settings.key is None:
        message = "a certificate needs its key, and a key its certificate."
        raise StartError(message, "give both --cert and --key, or neither")
    for path in (settings.certificate, settings.key):
        try:
            path.open("rb").close()
        except OSError as error:
            message = f"{path} can't be read: {error.strerror}."
            raise StartError(message, "give --cert and --key PEM files") from error
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(settings.certificate, settings.key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        raise StartError(
            f"{settings.certificate} and {settings.key} are no certificate with its key: {reason}.",
            "give --cert and --key PEM files that belong together, the key not encrypted",
        ) from error


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def _listen(settings: Settings) -> socket.socket:
    where = f"port {settings.port} of {settings.host}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM
        )[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as error:
        message = f"the server can't listen on {where}: {error.strerror}."
        raise StartError(
            message, "give another --port, or --host; port 0 is any free one"
        ) from error
    listening.setblocking(False)
    return listening
