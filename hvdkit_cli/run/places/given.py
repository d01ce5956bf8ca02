"""Hosts that the user names."""

from __future__ import annotations

from collections.abc import Mapping

from hvdkit_cli.errors import CommandError
from hvdkit_cli.run.hosts import parse_hosts, read_hostfile, total
from hvdkit_cli.run.request import Place, Request


def detect(request: Request, environ: Mapping[str, str]) -> Place | None:
    """The hosts of -H or --hostfile, or those that a script will name."""
    if request.elastic is not None and request.discover is not None:
        return Place("given", "--discover", (), request.elastic[0], "the fewest of --elastic")
    if request.hosts is not None and request.hostfile is not None:
        raise CommandError("Both -H and --hostfile are given.", "give one of them")
    if request.hosts is not None:
        hosts = parse_hosts(request.hosts)
        return Place("given", "-H", hosts, total(hosts), "the slots of -H")
    if request.hostfile is not None:
        hosts = read_hostfile(request.hostfile)
        return Place("given", str(request.hostfile), hosts, total(hosts), "the slots of its file")
    return None
