"""The nodes of a PBS job."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hvdkit_cli.errors import CommandError
from hvdkit_cli.run.hosts import Host
from hvdkit_cli.run.request import Place, Request


def detect(request: Request, environ: Mapping[str, str]) -> Place | None:
    """The lines of PBS_NODEFILE: a host for each rank."""
    file = environ.get("PBS_NODEFILE")
    if file is None:
        return None
    try:
        names = Path(file).read_text().split()
    except OSError as error:
        raise CommandError(
            f"PBS_NODEFILE ({file}) can't be read: {error.strerror}.",
            "run this inside the PBS job, or name the hosts with -H",
        ) from error
    hosts = [Host(name, names.count(name)) for name in dict.fromkeys(names)]
    return Place("pbs", "PBS_NODEFILE", hosts, len(names), "the lines of PBS_NODEFILE")
