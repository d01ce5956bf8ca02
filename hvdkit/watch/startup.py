"""Start and stop the watch of this rank."""

from __future__ import annotations

import atexit
import dataclasses
import os
import secrets
import socket
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import psutil

from hvdkit.watch.activity import activity
from hvdkit.watch.exceptions import ExceptHook, ExitHook
from hvdkit.watch.hub import Hub
from hvdkit.watch.judge import LEAVING
from hvdkit.watch.launcher import Launcher
from hvdkit.watch.links import Links
from hvdkit.watch.member import Member
from hvdkit.watch.messages import Line
from hvdkit.watch.printer import Printer
from hvdkit.watch.processes import Process, this_machine
from hvdkit.watch.report import Who

_CONNECT_SECONDS = 5.0


def wanted(argument: bool | None) -> bool:
    """Whether to watch: an argument of `hvd.init`, else HVDKIT_WATCH, else yes.

    Horovod Elastic lives on when a rank fails, and has its own means to see it.
    """
    if os.environ.get("HOROVOD_ELASTIC") == "1":
        return False
    return os.environ.get("HVDKIT_WATCH", "1") != "0" if argument is None else argument


@dataclasses.dataclass(frozen=True)
class _Peer:
    """What each rank tells the others at the start."""

    rank: int
    host: str
    machine: str
    pid: int
    token: str
    addresses: list[str]
    port: int


class _Watch:
    """The watch of this rank, while it runs."""

    def __init__(self, member: Member, hub: Hub | None, leave: Callable[[], None]) -> None:
        self.member = member
        self.hub = hub
        self.except_hook = ExceptHook(member)
        self.exit_hook = ExitHook(member)
        self.leave = leave
        self.pid = os.getpid()


_running: _Watch | None = None


def start(
    rank: int,
    limit: float,
    exchange: Callable[[dict[str, Any]], Sequence[dict[str, Any]]],
    agree: Callable[[str | None], None],
    leave: Callable[[], None],
) -> None:
    """Begin to watch, on every rank.

    Args:
        rank: this rank.
        limit: seconds that ranks may wait for another one.
        exchange: gives this rank's object to all ranks, and returns those of all in rank order.
        agree: raises an error on all ranks if one of them has a problem.
        leave: leaves the job, together with the other ranks; called by `stop`.
    """
    global _running
    listener = socket.create_server(("", 0), backlog=4096)
    mine = _Peer(
        rank=rank,
        host=socket.gethostname(),
        machine=this_machine(),
        pid=os.getpid(),
        token=secrets.token_hex(16),
        addresses=_addresses(),
        port=listener.getsockname()[1],
    )
    peers = [_Peer(**peer) for peer in exchange(dataclasses.asdict(mine))]
    who = {peer.rank: Who(peer.rank, peer.host, peer.pid) for peer in peers}
    token = peers[0].token
    launcher = Launcher.found()
    printer = Printer(token[:16], launcher)
    hub_ranks = _hub_ranks(peers)
    hub = None
    if rank in hub_ranks:
        hub = Hub(listener, who, token, limit, printer, _links(peers), standby=rank != hub_ranks[0])
        hub.start()
    else:
        listener.close()
    lines = [_connected(mine, peers[hub_rank]) for hub_rank in hub_ranks]
    agree(None if all(lines) else _unreachable(mine, [peers[r] for r in hub_ranks]))
    hubs = [line for line in lines if line is not None]
    for line in hubs:
        line.send({"token": token, "rank": rank})
    neighbours = {
        peer.rank: Process.watched(peer.pid)
        for peer in peers
        if peer.machine == mine.machine and peer.rank != rank
    }
    activity.begin()
    processes = {r: process for r, process in neighbours.items() if process}
    member = Member(
        who, activity, hubs, processes, printer, serves=hub is not None, launcher=launcher
    )
    activity.changed = member.tell
    member.start()
    _running = _Watch(member, hub, leave)
    # Registered after Horovod's own shutdown, so it runs before.
    atexit.unregister(_at_exit)
    atexit.register(_at_exit)


def stop(why: str = "left the job", *, final: bool = True) -> None:
    """Leave the job when no other rank needs this one any more, and watch no longer.

    Returns when all ranks have left, or when one waits for this rank, which then gets an error.

    Args:
        why: completes "rank 1 ...".
        final: whether its exit status is no fault of the job any more.
    """
    global _running
    if _running is None or _running.pid != os.getpid():  # a forked child has no threads
        return
    if sys.stdout is not None and not sys.stdout.closed:
        sys.stdout.flush()  # who reads it need not wait for the other ranks
    _running.member.tell({"type": "leaving", "why": why})
    with activity.doing(LEAVING, None):
        _running.member.wait_for_others()
        _running.leave()
    activity.end()
    _running.except_hook.remove()
    _running.exit_hook.remove()
    _running.member.stop(final=final)
    if _running.hub is not None:
        _running.hub.stop()
    _running = None


def _at_exit() -> None:
    if _running is not None and _running.pid == os.getpid():
        _running.exit_hook.tell()
    stop("came to the end of its script", final=False)


def _hub_ranks(peers: Sequence[_Peer]) -> tuple[int, int]:
    """Rank 0 and a stand-by: on another host if there is one, so that no host takes both along."""
    others = [peer.rank for peer in peers if peer.host != peers[0].host]
    return 0, others[0] if others else 1


def _links(peers: Sequence[_Peer]) -> Links:
    host_of = {peer.rank: peer.host for peer in peers}
    places = {(address, peer.host) for peer in peers for address in peer.addresses}
    count = Counter(address for address, _ in places)
    return Links(host_of, {a: host for a, host in places if count[a] == 1})


def _addresses() -> list[str]:
    """The IPv4 addresses of this host; those that only it can use come last."""
    found = [
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family == socket.AF_INET
    ]
    return sorted(found, key=lambda address: address.startswith("127."))


def _connected(mine: _Peer, peer: _Peer) -> Line | None:
    addresses = ["127.0.0.1"] if peer.host == mine.host else []
    # What this host has, too, such as that of a bridge for containers, leads back to itself.
    addresses += sorted(peer.addresses, key=lambda address: address in mine.addresses)
    for address in addresses:
        try:
            return Line(socket.create_connection((address, peer.port), _CONNECT_SECONDS))
        except OSError:
            continue
    return None


def _unreachable(mine: _Peer, hub_peers: Sequence[_Peer]) -> str:
    hubs = "; ".join(
        f"rank {peer.rank}, host {peer.host}, port {peer.port} of {', '.join(peer.addresses)}"
        for peer in hub_peers
    )
    return (
        f"host {mine.host} can't connect to hvdkit's watch over TCP ({hubs}). Let these hosts "
        "connect to each other, or turn the watch off: HVDKIT_WATCH=0, or hvd.init(watch=False)."
    )
