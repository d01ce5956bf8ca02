"""Which way from a worker to the driver."""

from __future__ import annotations

import socket

import psutil

from hvdkit.errors import HvdkitError


def rendezvous_environment(address: str, port: int) -> dict[str, str]:
    """The variables by which a rank finds the others over Gloo; called on the rank's host.

    Ranks talk over the interface that leads to the driver. By itself Gloo takes the one that the
    host's name belongs to, which on many machines only they can reach themselves.

    Args:
        address: of the driver.
        port: of its `Rendezvous`.

    Raises:
        HvdkitError: the address can't be reached from here.
    """
    try:
        address = socket.gethostbyname(address)
        with socket.create_connection((address, port), timeout=10) as line:
            own = line.getsockname()[0]
    except OSError as error:
        raise HvdkitError(
            f"host {socket.gethostname()} can't reach the driver at {address}, port {port}: "
            f"{error}. The hosts of the ranks have to connect to it while the job runs."
        ) from error
    names = [
        name
        for name, addresses in psutil.net_if_addrs().items()
        if any(each.address == own for each in addresses)
    ]
    return {
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": address,
        "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port),
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        **({"HOROVOD_GLOO_IFACE": names[0], "NCCL_SOCKET_IFNAME": names[0]} if names else {}),
    }
