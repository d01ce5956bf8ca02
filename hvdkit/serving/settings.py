"""How a server is to behave, and what it takes at most."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """What a client may ask for.

    Attributes:
        body: bytes of a request.
        bodies: bytes of all requests that are read, wait or run.
        elements: numbers and texts in one request, and in each tensor.
        dimensions: of a tensor.
        nesting: of the JSON.
        headers: bytes of a request's head.
        read: seconds for the head of a request, and again for its body.
        idle: seconds that a connection may stay open between two requests, or that a client may
            take nothing of an answer.
        connections: open ones; beyond them the answer is 503.
        seconds: from the head of a request to its answer.
    """

    body: int = 32 * MIB
    bodies: int = 256 * MIB
    elements: int = 4 * MIB
    dimensions: int = 16
    nesting: int = 32
    headers: int = 32 * 1024
    read: float = 10.0
    idle: float = 30.0
    connections: int = 1000
    seconds: float = 60.0


@dataclass(frozen=True)
class Batching:
    """How requests become batches.

    Attributes:
        rows: of a batch at most; 1: every request runs by itself.
        wait: seconds that the first request of a batch waits for more.
        queue: requests that may wait for a version; beyond them the answer is 429.
    """

    rows: int = 32
    wait: float = 0.002
    queue: int = 128


@dataclass(frozen=True)
class Running:
    """How models are run.

    Attributes:
        workers: processes for each model.
        threads: of one of them at one request; None: as many as the runtime finds right.
        load: seconds that loading, the first request included, may take.
        run: seconds that a batch may take, after which its process is ended.
        watch: seconds between two looks at the folder.
        stop: seconds that running requests get when the server is told to stop.
    """

    workers: int = 1
    threads: int | None = None
    load: float = 300.0
    run: float = 120.0
    watch: float = 1.0
    stop: float = 30.0


@dataclass(frozen=True)
class Settings:
    """A server.

    Attributes:
        folder: with the models.
        host: the address to listen on.
        port: 0 for any.
        tokens: of which each request needs one; none: requests need none.
        certificate: a PEM file; with it the server speaks TLS.
        key: its PEM file.
        log_inputs: whether the log may hold what clients send.
        limits: see `Limits`.
        batching: see `Batching`.
        running: see `Running`.
    """

    folder: Path
    host: str = "127.0.0.1"
    port: int = 8000
    tokens: tuple[str, ...] = ()
    certificate: Path | None = None
    key: Path | None = None
    log_inputs: bool = False
    limits: Limits = Limits()
    batching: Batching = Batching()
    running: Running = Running()
