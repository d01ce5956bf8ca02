"""Which ranks share a host."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

from hvdkit.engine.objects import allgather_object
from hvdkit.engine.topology import local_rank, local_size, mpi_enabled

Place = tuple[str, int, int]
"""A rank's host, its local rank, and its local size."""


def ranks_by_host() -> list[list[int]]:
    """The ranks of each host, the host of rank 0 first; all ranks call it.

    Raises:
        ValueError: on every rank: what hosts are called contradicts the launcher.
    """
    return grouped_by_host(allgather_object(_own_place(), name="hvdkit.hosts"))


def grouped_by_host(places: Sequence[Place]) -> list[list[int]]:
    """The ranks of each host, from the place of each rank.

    Raises:
        ValueError: two hosts have one name, or one has two.
    """
    hosts: dict[str, list[int]] = {}
    for rank, (host, _, _) in enumerate(places):
        hosts.setdefault(host, []).append(rank)
    for host, ranks in hosts.items():
        by_launcher = sorted(places[rank][1] for rank in ranks)
        if by_launcher != list(range(len(ranks))) or any(places[r][2] != len(ranks) for r in ranks):
            raise ValueError(
                f"ranks {ranks} are on a host called {host!r}, but their local ranks are "
                f"{[places[rank][1] for rank in ranks]} of {[places[rank][2] for rank in ranks]}: "
                "hosts need names of their own, by which the launcher knows them, too."
            )
    return list(hosts.values())


def _own_place() -> Place:
    # Gloo's launcher tells local ranks apart by the names that it was given.
    given = None if mpi_enabled() else os.environ.get("HOROVOD_HOSTNAME")
    return given or socket.gethostname(), local_rank(), local_size()
