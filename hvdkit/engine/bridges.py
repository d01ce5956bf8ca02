"""Networks of a host that lead to no other one: bridges to its own containers.

Docker gives its bridge the same address on every host. MPI takes the hosts that have it for
neighbours there, finds itself, and waits for ever.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

import psutil

from hvdkit.engine.launcher import Launch
from hvdkit.engine.settings import Setting, set_variable

_BRIDGES = re.compile(r"docker\d+|podman\d+|cni\d+|cni-podman\d+|virbr\d+|lxcbr\d+|lxdbr\d+")
# What Open MPI leaves out by default.
_LOOPBACK = "127.0.0.1/8,sppp"
_INCLUDE, _EXCLUDE = "OMPI_MCA_btl_tcp_if_include", "OMPI_MCA_btl_tcp_if_exclude"


def leave_bridges_out(launch: Launch) -> list[Setting]:
    """Let Open MPI leave out this host's bridges, unless the user has chosen networks."""
    if not launch.is_open_mpi or launch.size == launch.local_size or _INCLUDE in os.environ:
        return []
    found = bridges(psutil.net_if_addrs())
    if not found:
        return []
    reason = "bridges to containers lead to no other host"
    return [set_variable(_EXCLUDE, ",".join([_LOOPBACK, *found]), reason, given=False)]


def bridges(interfaces: Iterable[str]) -> list[str]:
    """Those of a host's interfaces that are bridges to its containers and virtual machines."""
    return sorted(name for name in interfaces if _BRIDGES.fullmatch(name))
