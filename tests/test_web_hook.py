"""Alarms that are posted to servers on this host: well ones, silent ones, and none."""

from __future__ import annotations

import json
import logging
import math
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from launch import run_ranks

from hvdkit.monitoring.alarms.web_hook import WebHook
from hvdkit.monitoring.sample import Alarm

pytestmark = pytest.mark.quick


ALARM = Alarm("loss", "the loss is nan.", 20, rank=None, host=None)


class Server:
    """An HTTP server on this host that keeps what it is sent."""

    def __init__(
        self,
        status: int = 200,
        headers: dict[str, str] | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.bodies: list[dict[str, object]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                server.bodies.append(json.loads(self.rfile.read(length)))
                server.headers.append(dict(self.headers))
                server.paths.append(self.path)
                self.send_response(status)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.end_headers()

            do_GET = do_POST

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        scheme = "http" if context is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def test_a_web_hook_sends_alarms(server: Server) -> None:
    hook = WebHook(f"{server.url}/secret", headers={"Authorization": "Bearer b"})
    hook(ALARM)
    hook(Alarm("straggler", "rank 1 …", 30, rank=1, host="node0"))
    hook.end()
    none = {"rank": None, "host": None}
    assert server.bodies == [
        {"kind": "loss", "text": "the loss is nan.", "step": 20, **none},
        {"kind": "straggler", "text": "rank 1 …", "step": 30, "rank": 1, "host": "node0"},
    ]
    assert server.paths == ["/secret"] * 2
    assert server.headers[0]["Authorization"] == "Bearer b"
    assert server.headers[0]["Content-Type"] == "application/json"
    hook(ALARM)  # in the next fit
    hook.end()
    assert len(server.bodies) == 3


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def unused_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_a_server_that_is_away_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    port = unused_port()
    hook = WebHook(f"http://127.0.0.1:{port}/secret")
    begun = time.monotonic()
    for _ in range(50):
        hook(ALARM)
    hook.end()
    assert time.monotonic() - begun < 3.5
    (said,) = warnings_of(caplog)
    assert said.startswith(
        f"hvdkit: alarms can't be sent to http://127.0.0.1:{port}: [Errno 111] Connection refused."
    )
    assert "secret" not in said


def test_a_server_that_never_answers_delays_nobody(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hook = WebHook(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.2)
        begun = time.monotonic()
        for _ in range(300):
            hook(ALARM)
        assert time.monotonic() - begun < 0.5
        hook.end()
        assert time.monotonic() - begun < 3
    assert len(warnings_of(caplog)) == 1


@pytest.mark.parametrize(
    ("status", "headers", "said"),
    [
        (302, {"Location": "file:///etc/passwd"}, "it answers 302, which leads elsewhere"),
        (307, {"Location": "http://127.0.0.1:1/"}, "it answers 307, which leads elsewhere"),
        (404, {}, "it answers 404 Not Found"),
        (500, {}, "it answers 500 Internal Server Error"),
    ],
)
def test_answers_that_are_no_success(
    caplog: pytest.LogCaptureFixture, status: int, headers: dict[str, str], said: str
) -> None:
    server = Server(status, headers)
    hook = WebHook(server.url)
    hook(ALARM)
    hook(ALARM)
    hook.end()
    server.close()
    (warning,) = warnings_of(caplog)
    assert said in warning
    assert len(server.bodies) == 2


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_a_certificate_is_verified(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        f"-subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {certificate}"
    )
    subprocess.run(command.split(), check=True, capture_output=True, timeout=30)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = Server(context=context)
    hook = WebHook(server.url)
    hook(ALARM)
    hook.end()
    (warning,) = warnings_of(caplog)
    assert "CERTIFICATE_VERIFY_FAILED" in warning
    assert server.bodies == []
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))  # now it is one that is trusted
    hook(ALARM)
    hook.end()
    server.close()
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        {"url": "file:///etc/passwd"},
        {"url": "ftp://host/x"},
        {"url": "host.example/x"},
        {"url": "https://"},
        {"url": "https://host:99999/"},
        {"url": "https://host/a b"},
        {"url": "https://host/\r\nX: y"},
        {"url": None},
        {"url": "https://me:secret@host/"},
        {"url": "https://host", "headers": {"X": "a\r\nY: b"}},
        {"url": "https://host", "headers": {"X Y": "a"}},
        {"url": "https://host", "headers": {"X": 3}},
        {"url": "https://host", "timeout": 0},
        {"url": "https://host", "timeout": math.inf},
    ],
)
def test_web_hooks_that_are_none(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"^hvd\.monitoring\.WebHook: ") as error:
        WebHook(**arguments)  # type: ignore[arg-type]
    assert "secret" not in str(error.value)


def test_a_script_that_ends_by_an_error_still_sends(server: Server) -> None:
    code = (
        "from hvdkit.monitoring.alarms.web_hook import WebHook\n"
        "from hvdkit.monitoring.sample import Alarm\n"
        f"WebHook('{server.url}')(Alarm('loss', 'the loss is nan.', 20))\n"
        "raise SystemExit(3)"
    )
    assert run_ranks("python", 1, ["-c", code], timeout=30).status == 3
    assert len(server.bodies) == 1
