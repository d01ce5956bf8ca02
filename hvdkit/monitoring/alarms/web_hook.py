"""Alarms sent to a web address."""

from __future__ import annotations

import atexit
import dataclasses
import json
import logging
import queue
import re
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException

from hvdkit.monitoring.sample import Alarm

_logger = logging.getLogger("hvdkit")
# Alarms are rare: more than these wait only for a server that is away.
_WAITING = 100
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_REFUSED = "hvd.monitoring.WebHook: "


class WebHook:
    """Posts alarms to a web address, each as a JSON object, from a thread of its own.

    The object has the fields of `hvd.monitoring.Alarm`: "kind", "text", "step", "rank", "host". A
    service that wants another one takes it from a function: `on_alarm` of `hvd.callbacks.Monitor`
    is any callable that takes an alarm.

    Certificates of https are verified; proxies are those of the environment (`https_proxy`,
    `no_proxy`). An answer that leads elsewhere is not followed. What can't be delivered is said
    once, until something is delivered again; an alarm is tried once, and the training never waits
    for it, but at the end for `timeout` and a second at most.

    Args:
        url: an http or https address. Its path is often a secret, and is in no message.
        headers: sent with each, such as `{"Authorization": "Bearer ..."}`.
        timeout: seconds that connecting, and each wait for an answer, may take.

    Raises:
        ValueError: no http or https address, one with a user's name, headers that are none, or a
            timeout that is not positive.

    Example:
        >>> hook = hvd.monitoring.WebHook("https://alarms.example.org/jobs")
        >>> hvd.callbacks.Monitor(on_alarm=hook)
    """

    def __init__(
        self, url: str, headers: Mapping[str, str] | None = None, timeout: float = 2.0
    ) -> None:
        self._server = _checked_server(url)
        self._url = url
        self._headers = _checked_headers(headers or {})
        if not isinstance(timeout, (int, float)) or not 0 < timeout <= 60:
            raise ValueError(f"{_REFUSED}timeout={timeout!r}: seconds, above 0 and at most 60.")
        self._timeout = float(timeout)
        # Made with the first alarm: until then a hook can be sent to another process.
        self._sender: _Sender | None = None

    def __call__(self, alarm: Alarm) -> None:
        """Send an alarm soon; returns at once.

        Args:
            alarm: the alarm.
        """
        if self._sender is None:
            self._sender = _Sender(self._url, self._headers, self._timeout, self._server)
        self._sender.take(alarm)

    def end(self) -> None:
        """Wait for what is not sent yet, for `timeout` and a second at most."""
        if self._sender is not None:
            self._sender.finish()
            self._sender = None


class _Sender:
    """A thread, and what it has to send."""

    def __init__(self, url: str, headers: Mapping[str, str], timeout: float, server: str) -> None:
        self._url, self._headers, self._timeout, self._server = url, headers, timeout, server
        self._alarms: queue.Queue[Alarm | None] = queue.Queue(_WAITING)
        self._said = False
        self._opener: urllib.request.OpenerDirector | None = None
        self._thread = threading.Thread(target=self._run, name="hvdkit web hook", daemon=True)
        self._thread.start()
        # A training that ends by an error may have had its most important alarm just before.
        atexit.register(self.finish)

    def take(self, alarm: Alarm) -> None:
        try:
            self._alarms.put_nowait(alarm)
        except queue.Full:
            self._say(f"{_WAITING} alarms wait to be sent already")

    def finish(self) -> None:
        atexit.unregister(self.finish)
        until = time.monotonic() + self._timeout + 1
        try:
            self._alarms.put(None, timeout=self._timeout + 1)
        except queue.Full:
            return
        self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive():
            self._say("it did not answer until the end of the job")

    def _run(self) -> None:
        while (alarm := self._alarms.get()) is not None:
            try:
                self._post(alarm)
            except urllib.error.HTTPError as error:
                with error:
                    self._say(_answer(error))
            # URLError is an OSError; a name that no host can have is a UnicodeError.
            except (OSError, HTTPException, ValueError) as error:
                self._say(f"{getattr(error, 'reason', None) or error or type(error).__name__}")
            else:
                self._said = False

    def _post(self, alarm: Alarm) -> None:
        if self._opener is None:  # certificates are read here, in the thread
            self._opener = _opener()
        body = json.dumps(dataclasses.asdict(alarm)).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "hvdkit", **self._headers}
        request = urllib.request.Request(self._url, body, headers, method="POST")
        with self._opener.open(request, timeout=self._timeout):
            pass  # what it answers, besides that it is well, is nobody's business

    def _say(self, why: str) -> None:
        if not self._said:
            self._said = True
            _logger.warning(
                "hvdkit: alarms can't be sent to %s: %s. They are printed only; it is not said "
                "again until one is sent.",
                self._server,
                why,
            )


def _opener() -> urllib.request.OpenerDirector:
    """Opens http and https addresses, and follows nothing."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _answer(error: urllib.error.HTTPError) -> str:
    if 300 <= error.code < 400:
        return f"it answers {error.code}, which leads elsewhere: give the address that it leads to"
    return f"it answers {error.code} {error.reason}"


def _checked_server(url: str) -> str:
    """The server of an address, without what may be secret."""
    try:
        parts = urllib.parse.urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except (ValueError, AttributeError, TypeError):
        known = False
    if not known or any(ord(letter) <= 32 or ord(letter) > 126 for letter in url):
        raise ValueError(
            f"{_REFUSED}that is no http or https address such as 'https://host.example/path'."
        )
    if "@" in parts.netloc:
        raise ValueError(
            f"{_REFUSED}the address holds a user's name: give it in headers, as Authorization."
        )
    return f"{parts.scheme}://{parts.netloc}"


def _checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if not (isinstance(name, str) and isinstance(value, str)):
            raise ValueError(f"{_REFUSED}headers are texts by names that are texts.")
        if not _NAME.fullmatch(name) or any(not 32 <= ord(letter) <= 126 for letter in value):
            raise ValueError(f"{_REFUSED}the header {name!r} holds what no header may hold.")
    return dict(headers)
