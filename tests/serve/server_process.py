"""Servers in processes of their own, and what the tests ask them."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from launch import ROOT, environment

FAKES = [sys.executable, str(ROOT / "tests/serve/serve_fakes.py")]
_PATIENCE = 60  # seconds, on a machine that does much else


class Server:
    """A server on a free port of 127.0.0.1.

    Args:
        command: that starts it.
        folder: with its models.
        env: more variables of its environment.
    """

    def __init__(
        self, command: Sequence[str], folder: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.lines: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            command, env=environment(env), stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self._news = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()
        self.url = self.wait_for("listening")["url"]
        self.port = int(self.url.rpartition(":")[2])

    def _read(self) -> None:
        for line in self.process.stdout:
            with self._news:
                self.lines.append(json.loads(line))
                self._news.notify_all()
        with self._news:
            self.lines.append({"event": "ended"})
            self._news.notify_all()

    def wait_for(self, event: str, **facts: Any) -> dict[str, Any]:
        """Wait for a line of the log with these facts."""

        def found() -> list[dict[str, Any]]:
            wanted = {"event": event, **facts}.items()
            return [line for line in self.lines if wanted <= _hashable(line).items()]

        with self._news:
            seen = self._news.wait_for(
                lambda: found() or self.lines[-1:] == [{"event": "ended"}], _PATIENCE
            )
            assert seen, f"no {event} {facts} in {_PATIENCE} s: {self.lines[-20:]}"
            assert found(), f"the server has ended: {self.lines[-20:]}"
            return found()[-1]

    def add(self, model: str, version: int, **says: Any) -> None:
        """Put a fake version into the folder, and wait until it serves."""
        self.put(model, version, **says)
        self.wait_for("serving", model=model, version=version)

    def put(self, model: str, version: int, **says: Any) -> None:
        """Put a fake version into the folder, whole at once."""
        put(self.folder, model, version, **says)

    def remove(self, model: str, version: int) -> None:
        """Take a version out of the folder."""
        shutil.rmtree(self.folder / model / str(version))

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], Any]:
        """Ask; the status, the headers and the body, which is JSON but for /metrics."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_PATIENCE)
        try:
            data = json.dumps(body) if isinstance(body, (dict, list)) else body
            connection.request(method, path, data, headers or {})
            answer = connection.getresponse()
            text = answer.read().decode()
            found = dict(answer.getheaders())
            is_json = found.get("content-type") == "application/json"
            return answer.status, found, json.loads(text) if is_json else text
        finally:
            connection.close()

    def infer(
        self, model: str, rows: Any, headers: dict[str, str] | None = None, **more: Any
    ) -> tuple[int, dict[str, str], Any]:
        """Ask a model about some rows."""
        return self.request("POST", f"/v2/models/{model}/infer", asked(rows, **more), headers)

    def y(self, model: str, rows: Any) -> tuple[str, np.ndarray]:
        """The version that has answered, and its rows."""
        status, _, answer = self.infer(model, rows)
        assert status == 200, answer
        (output,) = answer["outputs"]
        return answer["model_version"], np.reshape(output["data"], output["shape"])

    def figure(self, name: str, **labels: str) -> float:
        """A figure of /metrics; 0 where it is not there yet."""
        _, _, page = self.request("GET", "/metrics")
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        for line in page.splitlines():
            this = line.split("{")[0].split(" ")[0] == f"hvdkit_serve_{name}"
            if this and all(each in line for each in wanted):
                return float(line.rpartition(" ")[2])
        return 0.0

    def raw(self, data: bytes) -> socket.socket:
        """Send bytes as they are."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=_PATIENCE)
        connection.sendall(data)
        return connection

    def stop(self) -> int:
        """Tell it to stop; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_PATIENCE)

    def kill(self) -> None:
        """End it, whatever it does; its workers see that."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(_PATIENCE)


def put(folder: Path, model: str, version: int, **says: Any) -> None:
    """Put a fake version into a folder, whole at once."""
    (folder / model).mkdir(exist_ok=True)
    copying = folder / model / f"{version}.copying"
    copying.mkdir()
    (copying / "model.onnx").write_text(json.dumps(says))
    os.rename(copying, folder / model / str(version))


def asked(rows: Any, **more: Any) -> dict[str, Any]:
    """A request to a fake model."""
    array = np.asarray(rows, np.float32)
    data = array.ravel().tolist()
    tensor = {"name": "x", "shape": list(array.shape), "datatype": "FP32", "data": data}
    return {"inputs": [tensor], **more}


def wait_until(true: Callable[[], bool]) -> None:
    """Wait for something."""
    end = time.monotonic() + _PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def answer_of(connection: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except (ConnectionResetError, TimeoutError):
        pass  # it has closed while there was more to read, or nothing comes
    connection.close()
    return b"".join(parts)


def _hashable(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if not isinstance(value, (dict, list))}
