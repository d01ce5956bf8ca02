"""Fixtures of the tests of `hvdkit serve`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from server_process import FAKES, Server, put

SHARED = {
    "limits": {"read": 1, "body": 100_000, "elements": 5_000, "headers": 8192},
    "batching": {"rows": 8, "wait": 0.05, "queue": 16},
    "running": {"run": 20},
}


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server of most tests, with fakes: `adder`, `slow`, `text` and `mean`."""
    folder = tmp_path_factory.mktemp("models")
    put(folder, "adder", 1, plus=1)
    put(folder, "slow", 1, sleep=0.2)
    put(folder, "text", 1, text=True)
    put(folder, "mean", 1, mean=True)
    server = Server([*FAKES, str(folder), json.dumps(SHARED)], folder)
    try:
        for model in ("adder", "slow", "text", "mean"):
            server.wait_for("serving", model=model)
        yield server
        assert server.stop() == 0
    finally:
        server.kill()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts a server of the test's own, with settings of its own; its folder is tmp_path."""
    servers: list[Server] = []

    def begin(**settings: Any) -> Server:
        servers.append(Server([*FAKES, str(tmp_path), json.dumps(settings)], tmp_path))
        return servers[-1]

    yield begin
    for server in servers:
        server.kill()
