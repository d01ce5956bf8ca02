"""How fast the network between hosts is, read off the connections over which the ranks train.

The kernel keeps for each TCP connection how fast it last delivered, when the sender had as much to
send as the network takes (`tcpi_delivery_rate` of linux/tcp.h). Reading it sends nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import struct
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_INFO_BYTES = 232  # more than the fields below need
_BYTES_ACKED_AT = 120
_DELIVERY_RATE_AT = 160

# A connection that sends less between two looks says nothing about the network.
_ENOUGH_BYTES = 2**15
# Slow is what is so many times slower than it was, or than the others are ...
_SLOW_TIMES = 20.0
# ... unless it is this fast (bytes a second), and at as many looks in a row.
_FAST = 50e6
_LOOKS = 3
# By then all who use a slow link have seen it.
_STEADY_LOOKS = 2


class Meter:
    """Reads the speeds of this process's connections, look by look."""

    def __init__(self) -> None:
        self._acked: dict[str, int] = {}

    def speeds(self) -> dict[str, float]:
        """Bytes a second to each address of another host that much has been sent to lately."""
        found: dict[str, float] = {}
        acked: dict[str, int] = {}
        for name, connection in _connections():
            with connection, contextlib.suppress(OSError, struct.error):
                info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
                address = connection.getpeername()[0].removeprefix("::ffff:")
                acked[name] = struct.unpack_from("Q", info, _BYTES_ACKED_AT)[0]
                rate = struct.unpack_from("Q", info, _DELIVERY_RATE_AT)[0]
                if acked[name] - self._acked.get(name, acked[name]) >= _ENOUGH_BYTES:
                    found[address] = max(found.get(address, 0.0), float(rate))
        self._acked = acked
        return found


def _connections() -> Iterator[tuple[str, socket.socket]]:
    """This process's own, whoever has opened them, as copies that may be closed."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{name}")
            if target.startswith("socket:"):
                copy = socket.socket(fileno=os.dup(int(name)))
                if copy.type == socket.SOCK_STREAM and copy.family in _FAMILIES:
                    yield target, copy
                else:
                    copy.close()


_FAMILIES = (socket.AF_INET, socket.AF_INET6)


@dataclass
class _Link:
    best: float = 0.0
    last: deque[float] = field(default_factory=lambda: deque(maxlen=_LOOKS))


class Links:
    """The speeds between hosts, and which host's network has become slow.

    Args:
        host_of: the host of each rank.
        addresses: the host of each address that only one host has.
    """

    def __init__(self, host_of: Mapping[int, str], addresses: Mapping[str, str]) -> None:
        self._host_of = host_of
        self._addresses = addresses
        self._links: dict[tuple[str, str], _Link] = {}
        self._named: str | None = None
        self._since = 0
        self._warned: set[str] = set()

    def take(self, rank: int, speeds: Mapping[str, float]) -> str | None:
        """Take in what a rank has measured; returns a warning, once for each host."""
        for address, speed in speeds.items():
            hosts = self._host_of[rank], self._addresses.get(address, self._host_of[rank])
            if hosts[0] != hosts[1]:
                link = self._links.setdefault(hosts, _Link())
                link.last.append(speed)
                if len(link.last) == _LOOKS:  # single values may be far too high
                    link.best = max(link.best, statistics.median(link.last))
        slow = {hosts: usual for hosts in self._links if (usual := self._too_fast_for(hosts))}
        named = _named(list(slow), [name for name in self._links if name not in slow])
        self._since = self._since + 1 if named == self._named else 0
        self._named = named
        if named is None or named in self._warned or self._since < _STEADY_LOOKS * len(self._links):
            return None
        self._warned.add(named)
        now = min(statistics.median(self._links[hosts].last) for hosts in slow)
        return (
            f"{named} carries {now / 1e6:.3g} MB/s, where {max(slow.values()) / 1e6:.3g} MB/s were "
            "seen: all ranks wait for it in each step. Look at its link (ethtool: speed, errors), "
            "the cable, the port of the switch, and who else uses it."
        )

    def _too_fast_for(self, hosts: tuple[str, str]) -> float:
        """The usual speed that a link is far from; 0 where it is fast enough."""
        link = self._links[hosts]
        others = [other.last[-1] for name, other in self._links.items() if name != hosts]
        usual = max(link.best, statistics.median(others) if len(others) > 2 else 0.0)
        if len(link.last) < _LOOKS or max(link.last) > min(usual / _SLOW_TIMES, _FAST):
            return 0.0
        return usual


def _named(slow: list[tuple[str, str]], fast: list[tuple[str, str]]) -> str | None:
    """What is slow: the one host that all these links have, or the network between two."""
    if not slow:
        return None
    # A host that is well connected with another one is not to blame.
    common = set(slow[0]).intersection(*slow) - {host for hosts in fast for host in hosts}
    if len(common) == 1:
        return f"the network of host {common.pop()}"
    between = sorted({" and ".join(sorted(hosts)) for hosts in slow})
    return f"the network between hosts {', '.join(between)}"
