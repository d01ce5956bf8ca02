"""The supervisor's side of the connections: who has come, what they say, and who is lost."""

from __future__ import annotations

import hmac
import secrets
import selectors
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hvdkit_cli.run.wire import (
    ADDRESS_VARIABLE,
    BEAT,
    BEAT_SECONDS,
    ERR,
    NEWS,
    TOKEN_VARIABLE,
    Message,
    Wire,
    parsed,
)

# A loop that has not run for this long has been held up itself, by a terminal or a disk.
_ABSENT_SECONDS = 5.0


@dataclass(eq=False)
class Peer:
    """A rank that has come.

    Attributes:
        rank: its number; in an elastic job, the one that it began with.
        host: its host's name.
        slot: which of the ranks of its host it is.
        pid: the process id of its script, once that has started.
        wire: the connection.
        heard: when it said something, by `time.monotonic`.
        signalled: whether the launcher, or a scheduler, has sent it a signal.
    """

    rank: int
    host: str
    slot: str
    pid: int
    wire: Wire
    heard: float
    signalled: bool = False

    def __str__(self) -> str:
        return f"rank {self.rank} (host {self.host}, pid {self.pid})"


@dataclass(frozen=True)
class Came:
    """A rank has come."""

    peer: Peer


@dataclass(frozen=True)
class Printed:
    """A rank has printed something; `is_error` for its standard error."""

    peer: Peer
    data: bytes
    is_error: bool


@dataclass(frozen=True)
class Ended:
    """A rank's script has ended, with an exit status or minus a signal."""

    peer: Peer
    status: int


@dataclass(frozen=True)
class Lost:
    """Nothing comes from a rank any more, and it has not said how it ended.

    `is_silent` where its connection is there, but nobody answers.
    """

    peer: Peer
    why: str
    is_silent: bool = False


Event = Came | Printed | Ended | Lost


class Server:
    """Where the ranks of one start of a job connect.

    Args:
        addresses: the addresses of this host that are named to them.
        lost_seconds: how long a rank may be silent until it is lost.
    """

    def __init__(self, addresses: Sequence[str], lost_seconds: float) -> None:
        only = addresses[0] if len(addresses) == 1 else ""
        self._listener = socket.create_server((only, 0), backlog=4096)
        self._listener.setblocking(False)
        self._token = secrets.token_hex(16)
        self._addresses = addresses
        self._lost_seconds = lost_seconds
        self._strangers: set[Wire] = set()
        self._peers: dict[Wire, Peer] = {}
        self._silent_since: float | None = None
        self._closed = threading.Event()
        self.selector = selectors.DefaultSelector()
        self.selector.register(self._listener, selectors.EVENT_READ, self._listener)
        self._beats = threading.Thread(target=self._beat, name="hvdkit-beats", daemon=True)

    def serve(self) -> None:
        """Begin to send heartbeats; the launcher is started before, while there is one thread."""
        self._beats.start()

    def variables(self) -> dict[str, str]:
        """What ranks need in their environment to connect."""
        port = self._listener.getsockname()[1]
        return {
            ADDRESS_VARIABLE: f"{','.join(self._addresses)}:{port}",
            TOKEN_VARIABLE: self._token,
        }

    def tell(self, peers: Sequence[Peer], order: str) -> None:
        """Send an order to ranks; one that is gone is lost by the next `events`."""
        for peer in peers:
            _send(peer.wire, {"type": order})

    def events(self, ready: Sequence[object], now: float) -> Iterator[Event]:
        """What has happened.

        Args:
            ready: the data of what the selector says can be read.
            now: the time, by `time.monotonic`.
        """
        self._excuse_absence(now)
        for each in ready:
            if each is self._listener:
                self._accept()
            elif isinstance(each, Wire):
                yield from self._read(each, now)
        for peer in list(self._peers.values()):
            if now - peer.heard > self._lost_seconds:
                self._forget(peer.wire)
                why = f"nothing came from its host for {now - peer.heard:.0f} s"
                yield Lost(peer, why, is_silent=True)

    def close(self) -> None:
        """Close all connections."""
        self._closed.set()
        if self._beats.is_alive():
            self._beats.join()
        for wire in [*self._strangers, *self._peers]:
            wire.close()
        self._listener.close()
        self.selector.close()

    def _beat(self) -> None:
        """From a thread of its own: a terminal that takes nothing holds up the other one."""
        while not self._closed.wait(BEAT_SECONDS):
            for wire in list(self._peers):
                _send(wire, BEAT)

    def _excuse_absence(self, now: float) -> None:
        before, self._silent_since = self._silent_since, now
        if before is not None and now - before > _ABSENT_SECONDS:
            for peer in self._peers.values():
                peer.heard = now

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it went away again
            return
        wire = Wire(connection)
        self._strangers.add(wire)
        self.selector.register(wire, selectors.EVENT_READ, wire)

    def _read(self, wire: Wire, now: float) -> Iterator[Event]:
        peer = self._peers.get(wire)
        try:
            for kind, content in wire.receive():
                if peer is None:
                    peer = self._introduced(wire, parsed(content), now)
                    yield Came(peer)
                    continue
                peer.heard = now
                if kind != NEWS:
                    yield Printed(peer, content, kind == ERR)
                    continue
                message = parsed(content)
                if message["type"] == "started":
                    peer.pid = int(message["pid"])
                elif message["type"] == "signalled":
                    peer.signalled = True
                elif message["type"] == "ended":
                    yield Ended(peer, int(message["status"]))
        except (ConnectionError, KeyError, TypeError, ValueError):
            self._forget(wire)
            if peer is not None:
                yield Lost(peer, "its connection closed before it said how it ended")

    def _introduced(self, wire: Wire, message: Message, now: float) -> Peer:
        if not hmac.compare_digest(str(message["token"]), self._token):
            raise ConnectionError("a stranger")
        rank, pid = int(message["rank"]), int(message["pid"])
        peer = Peer(rank, str(message["host"]), str(message["slot"]), pid, wire, now)
        self._strangers.discard(wire)
        self._peers[wire] = peer
        wire.tell({"type": "welcome", "lost_seconds": self._lost_seconds})
        return peer

    def _forget(self, wire: Wire) -> None:
        self._strangers.discard(wire)
        self._peers.pop(wire, None)
        self.selector.unregister(wire)
        wire.close()


def _send(wire: Wire, message: Message) -> None:
    try:
        wire.tell(message)
    except ConnectionError:
        return  # reading from it says so, too, and that is where it is dealt with
