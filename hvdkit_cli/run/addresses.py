"""The addresses by which ranks on other hosts reach this one."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

import psutil

from hvdkit_cli.errors import CommandError
from hvdkit_cli.run.hosts import Host

LOOPBACK = "127.0.0.1"


def reachable(hosts: Sequence[Host], interface: str | None) -> list[str]:
    """The IPv4 addresses at which to listen for the ranks on some hosts.

    Args:
        hosts: where the ranks will be; empty where nobody knows yet.
        interface: the name of a network interface, or a network as 10.0.0.0/16; None for all.

    Returns:
        The addresses, the one that only this host can use last; only that one where no rank is
        on another host.

    Raises:
        CommandError: `interface` is neither.
    """
    own = _own()
    if hosts and all(_is_here(host.name, own) for host in hosts):
        return [LOOPBACK]
    chosen = [address for address, name in own.items() if _is_in(address, name, interface)]
    return [*(address for address in chosen if address != LOOPBACK), LOOPBACK]


def _own() -> dict[str, str]:
    """The name of the interface of each address."""
    return {
        address.address: name
        for name, addresses in psutil.net_if_addrs().items()
        for address in addresses
        if address.family == socket.AF_INET
    }


def _is_here(host: str, own: dict[str, str]) -> bool:
    if host in ("localhost", socket.gethostname()):
        return True
    try:
        return socket.gethostbyname(host) in own
    except OSError:
        return False  # the launcher may know it


def _is_in(address: str, name: str, interface: str | None) -> bool:
    if interface is None:
        return True
    if "/" not in interface:
        return name == interface
    try:
        network = ipaddress.ip_network(interface, strict=False)
    except ValueError as error:
        raise CommandError(
            f"--interface {interface} is no network: {error}.", "write it as 10.0.0.0/16, or eth0"
        ) from error
    return ipaddress.ip_address(address) in network
