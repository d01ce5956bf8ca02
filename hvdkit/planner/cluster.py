"""What a training runs on: hosts with their devices, links, power and prices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from hvdkit.planner.devices import Device, average, slowest
from hvdkit.planner.links import Network
from hvdkit.planner.transformer import Degrees


@dataclass(frozen=True)
class Hosts:
    """Hosts that are alike.

    Attributes:
        count: how many.
        devices: of each.
        device: what these are.
    """

    count: int
    devices: int
    device: Device

    @property
    def ranks(self) -> int:
        """Devices of all of them."""
        return self.count * self.devices


@dataclass(frozen=True)
class Power:
    """What energy is and costs at a place.

    Attributes:
        pue: energy of the whole site for each of its computers.
        emission: kg of CO2 for a kWh; 0 where not known.
        price: of a kWh; 0 where it is in the price of devices.
    """

    pue: float = 1.0
    emission: float = 0.0
    price: float = 0.0


@dataclass(frozen=True)
class Cluster:
    """What a training runs on.

    Attributes:
        name: what tables call it.
        hosts: one entry, or one for each kind.
        network: links inside of hosts and between them.
        power: energy and its price.
        ranks_in_use: for a part of it: how many devices, from the first on; None for all.
    """

    name: str
    hosts: tuple[Hosts, ...]
    network: Network
    power: Power = Power()
    currency: str = "USD"
    ranks_in_use: int | None = None

    @property
    def ranks(self) -> int:
        """Devices of the job, one for each rank."""
        return self.ranks_in_use or sum(hosts.ranks for hosts in self.hosts)

    @property
    def per_host(self) -> int:
        """Devices of a host, of the host with fewest."""
        return min(min(hosts.devices for hosts in self.hosts), self.ranks)

    @property
    def equal(self) -> bool:
        """Whether all devices in use are alike."""
        return len({device.name for device, _ in self.in_use()}) == 1

    def in_use(self) -> list[tuple[Device, int]]:
        """Each kind of device, and how many of it the job has."""
        left, found = self.ranks, []
        for hosts in self.hosts:
            used = min(left, hosts.ranks)
            if used:
                found.append((hosts.device, used))
            left -= used
        return found

    def with_ranks(self, ranks: int) -> Cluster:
        """The first devices of this cluster; of alike hosts also more than it says it has."""
        if ranks <= sum(hosts.ranks for hosts in self.hosts):
            return replace(self, ranks_in_use=ranks)
        (hosts, *others) = self.hosts
        if others:
            raise ValueError(
                f"{ranks} ranks, but {self.name} has {sum(h.ranks for h in self.hosts)} devices of "
                "different kinds: say in its file which hosts are added."
            )
        count = -(-ranks // hosts.devices)
        return replace(self, hosts=(replace(hosts, count=count),), ranks_in_use=ranks)

    def device(self, degrees: Degrees, share_rows: bool) -> Device:
        """The device by which a step goes.

        Args:
            degrees: the mesh.
            share_rows: whether replicas get rows in proportion to their speed
                (`hvd.shard(weights=)`); those of which one spans kinds of devices can't.
        """
        used = self.in_use()
        replica = degrees.pipeline * degrees.tensor
        if share_rows and all(count % replica == 0 for _, count in used):
            return average([device for device, _ in used], [count for _, count in used])
        return slowest([device for device, _ in used])

    def __iter__(self) -> Iterator[Hosts]:
        return iter(self.hosts)
