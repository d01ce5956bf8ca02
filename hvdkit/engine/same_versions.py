"""Hosts that have different versions of what computes train something else each, in silence."""

from __future__ import annotations

import socket
from collections.abc import Iterable

from hvdkit.engine.objects import allgather_object
from hvdkit.engine.versions import installed_versions
from hvdkit.errors import HvdkitError


def require_same_versions() -> None:
    """Compare what the hosts have; called by all ranks.

    Raises:
        HvdkitError: on every rank: what differs, and where.
    """
    mine = socket.gethostname(), installed_versions()
    problem = different_versions(allgather_object(mine, name="hvdkit.versions"))
    if problem is not None:
        raise HvdkitError(problem)


def different_versions(found: Iterable[tuple[str, dict[str, str]]]) -> str | None:
    """What is wrong where hosts have different versions; None where all are the same.

    Args:
        found: the host of each rank, and the versions there.
    """
    hosts: dict[str, dict[str, set[str]]] = {}
    for host, versions in found:
        for name, version in versions.items():
            hosts.setdefault(name, {}).setdefault(version, set()).add(host)
    lines = [
        f"{name} " + ", ".join(f"{v} on {', '.join(sorted(where))}" for v, where in by.items())
        for name, by in hosts.items()
        if len(by) > 1
    ]
    if not lines:
        return None
    return (
        f"the hosts of this job have different versions: {'; '.join(lines)}. Install the same on "
        "all of them, at the same paths; `hvdkit doctor --hosts H1,H2,...` compares them."
    )
