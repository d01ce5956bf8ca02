"""Which worker becomes which rank: the workers of a host get consecutive ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Slot:
    """A rank's numbers, as Horovod reads them.

    Attributes:
        host: what its host is called, the same for all its ranks.
        rank: its number.
        size: how many ranks there are.
        local_rank: its number on its host.
        local_size: how many there are on its host.
        cross_rank: its host's number among those that have a rank of this local rank.
        cross_size: how many such hosts there are.
    """

    host: str
    rank: int
    size: int
    local_rank: int
    local_size: int
    cross_rank: int
    cross_size: int

    def environment(self) -> dict[str, str]:
        """The variables by which Horovod knows it."""
        numbers = {name: str(value) for name, value in vars(self).items() if name != "host"}
        named = {f"HOROVOD_{name.upper()}": value for name, value in numbers.items()}
        return {"HOROVOD_HOSTNAME": self.host, **named}

    def answer(self) -> str:
        """What Gloo's store is answered that asks who a worker is now."""
        numbers = (self.rank, self.size, self.local_rank, self.local_size)
        return ",".join(map(str, (*numbers, self.cross_rank, self.cross_size)))


def slots_of(hosts: Sequence[str]) -> list[Slot]:
    """The slot of each worker, from the host of each.

    Args:
        hosts: the host of each worker. The first host has rank 0, and on a host the first worker
            has local rank 0.
    """
    workers: dict[str, list[int]] = {}
    for worker, host in enumerate(hosts):
        workers.setdefault(host, []).append(worker)
    slots: dict[int, Slot] = {}
    for host, own in workers.items():
        for local_rank, worker in enumerate(own):
            peers = [other for other, there in workers.items() if len(there) > local_rank]
            slots[worker] = Slot(
                host=host,
                rank=len(slots),
                size=len(hosts),
                local_rank=local_rank,
                local_size=len(own),
                cross_rank=peers.index(host),
                cross_size=len(peers),
            )
    return [slots[worker] for worker in range(len(hosts))]
