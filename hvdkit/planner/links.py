"""How long collectives take over links, from a measured table or from latency and bandwidth.

Formulas: Thakur et al. (2005), "Optimization of collective communication operations in MPICH".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np


@dataclass(frozen=True)
class Link:
    """What connects the devices of a host, or hosts.

    An all-reduce of n bytes over p devices takes 2 log2(p) L + 2 (p - 1) / p n / B: the rounds of
    a tree, the bytes of a ring. One L and one B do not follow a real curve: a table of measured
    times is interpolated instead, in the logarithms of both, and scaled to other p by the bytes.

    Attributes:
        bandwidth: bytes a second that one device sends, B.
        latency: seconds before the first byte arrives, L.
        measured: sizes in bytes and seconds of an all-reduce, in ascending order of sizes.
        measured_over: devices that the table was measured with.
    """

    bandwidth: float
    latency: float = 0.0
    measured: tuple[tuple[float, float], ...] = field(default=())
    measured_over: int = 2

    @classmethod
    def from_table(cls, table: Sequence[tuple[float, float]], devices: int) -> Link:
        """A link that is known by the times of all-reduces."""
        ordered = tuple(sorted((float(size), float(time)) for size, time in table))
        size, time = ordered[-1]
        bandwidth = _ring_share(devices) * size / time
        latency = ordered[0][1] / (2 * math.log2(devices))
        return cls(bandwidth, latency, ordered, devices)

    def reached(self, share: float) -> Link:
        """The link with a share of its bandwidth; one that is measured stays as it is."""
        return self if self.measured else replace(self, bandwidth=self.bandwidth * share)

    def all_reduce(self, size: float, devices: int) -> float:
        """Seconds of an all-reduce of `size` bytes over some devices."""
        if devices < 2 or size <= 0:
            return 0.0
        if not self.measured:
            rounds = 2 * math.log2(devices) * self.latency
            return rounds + _ring_share(devices) * size / self.bandwidth
        scale = _ring_share(devices) / _ring_share(self.measured_over)
        return scale * self._interpolated(size)

    def gather(self, size: float, devices: int) -> float:
        """Seconds until all have the parts of all, together `size` bytes; so of a reduce-scatter.

        A half of an all-reduce, which is both of them.
        """
        return self.all_reduce(size, devices) / 2

    def send(self, size: float) -> float:
        """Seconds of a message from one device to another."""
        return self.latency + size / self.bandwidth

    def _interpolated(self, size: float) -> float:
        sizes, times = np.log(np.asarray(self.measured)).T
        x = math.log(size)
        if x <= sizes[0]:
            return float(np.exp(times[0]))  # what is smaller takes the latency
        if x >= sizes[-1]:
            return float(np.exp(times[-1] + x - sizes[-1]))  # what is larger, the bandwidth
        return float(np.exp(np.interp(x, sizes, times)))


def _ring_share(devices: int) -> float:
    return 2 * (devices - 1) / devices


@dataclass(frozen=True)
class Network:
    """The links inside of hosts and between them.

    Attributes:
        inside: between the devices of a host.
        between: between hosts, for a whole host: its devices share it; None for one host.
        in_turn: whether both levels work one after the other (`hvd.exchange.Hierarchical`, MPI),
            and not at once, in pieces, as NCCL's rings do.
        hidden: the part of a collective that takes no time from what is computed beside it; 0
            where the cores that compute have to move the bytes.
    """

    inside: Link
    between: Link | None = None
    in_turn: bool = False
    hidden: float = 1.0

    def exposed(self, seconds: float, window: float) -> float:
        """Seconds that a collective adds to computation beside which it has some time."""
        return seconds - self.hidden * min(seconds, window)

    def reached(self, share: float) -> Network:
        """The network with a share of the bandwidths that are not measured."""
        between = None if self.between is None else self.between.reached(share)
        return replace(self, inside=self.inside.reached(share), between=between)

    def all_reduce(self, size: float, here: int, hosts: int, sharing: int) -> float:
        """Seconds of an all-reduce.

        Args:
            size: bytes of each device.
            here: devices of the group on each host.
            hosts: hosts that the group is on.
            sharing: devices of a host whose groups use its link at the same time, these included.
        """
        inside = self.inside.all_reduce(size, here)
        if hosts < 2:
            return inside
        # All devices of a host send at once: 1/here of the bytes for each device of a group.
        size = size * sharing / here
        if self.in_turn:
            return inside + self._between.all_reduce(size, hosts)
        # One ring through all devices, in pieces: as slow as its slowest link.
        return max(inside, self._between.all_reduce(size, here * hosts))

    def gather(self, size: float, here: int, hosts: int, sharing: int) -> float:
        """Seconds of an all-gather to `size` bytes, or of a reduce-scatter."""
        return self.all_reduce(size, here, hosts, sharing) / 2

    def send(self, size: float, across: bool, sharing: int) -> float:
        """Seconds of a message, where `sharing` devices of a host send at once."""
        return self._between.send(size * sharing) if across else self.inside.send(size)

    @property
    def _between(self) -> Link:
        if self.between is None:
            raise ValueError("the cluster has one host: nothing is between hosts")
        return self.between
