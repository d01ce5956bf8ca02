"""What Open MPI has to be told on several hosts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

import psutil

from hvdkit.engine.launcher import Launch
from hvdkit.engine.settings import Setting, set_variable

# The watch needs less than that to say which rank is gone.
ABORT_DELAY_SECONDS = 5

_BRIDGES = re.compile(r"docker\d+|podman\d+|cni\d+|cni-podman\d+|virbr\d+|lxcbr\d+|lxdbr\d+")
# What Open MPI leaves out by default.
_LOOPBACK = "127.0.0.1/8,sppp"
_INCLUDE, _EXCLUDE = "OMPI_MCA_btl_tcp_if_include", "OMPI_MCA_btl_tcp_if_exclude"


def several_hosts_settings(launch: Launch, *, watched: bool) -> list[Setting]:
    """Set what MPI reads when it starts, where Open MPI has started ranks on several hosts.

    Args:
        launch: how the job was launched.
        watched: whether hvdkit's watch says what has happened to a rank.
    """
    if not launch.is_open_mpi or launch.size == launch.local_size:
        return []
    settings = _leave_bridges_out()
    if watched:
        # It ends a process at once whose connection to another one closes.
        settings.append(
            set_variable(
                "OMPI_MCA_opal_abort_delay",
                str(ABORT_DELAY_SECONDS),
                "s; until then hvdkit has said which rank is gone",
                given=False,
            )
        )
    return settings


def _leave_bridges_out() -> list[Setting]:
    """Leave out this host's bridges, unless the user has chosen networks.

    Docker gives its bridge the same address on every host. MPI takes the hosts that have it for
    neighbours there, finds itself, and waits for ever.
    """
    found = bridges(psutil.net_if_addrs())
    if not found or _INCLUDE in os.environ:
        return []
    reason = "bridges to containers lead to no other host"
    return [set_variable(_EXCLUDE, ",".join([_LOOPBACK, *found]), reason, given=False)]


def bridges(interfaces: Iterable[str]) -> list[str]:
    """Those of a host's interfaces that are bridges to its containers and virtual machines."""
    return sorted(name for name in interfaces if _BRIDGES.fullmatch(name))
