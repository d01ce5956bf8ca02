"""The allocation of a Slurm job."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping

from hvdkit_cli.errors import CommandError
from hvdkit_cli.launched import tasks_per_node
from hvdkit_cli.run.hosts import Host, total
from hvdkit_cli.run.request import Place, Request

_ASK_SECONDS = 20.0


def detect(request: Request, environ: Mapping[str, str]) -> Place | None:
    """The nodes and tasks of the job that this process is in."""
    if "SLURM_JOB_ID" not in environ:
        return None
    counts = tasks_per_node(environ.get("SLURM_TASKS_PER_NODE", ""))
    nodes = _nodes(environ)
    hosts = [Host(node, slots) for node, slots in zip(nodes, counts, strict=False)]
    number = environ.get("SLURM_NTASKS", "")
    default = int(number) if number.isdigit() else total(hosts)
    job = f"the Slurm allocation (job {environ['SLURM_JOB_ID']})"
    return Place("slurm", job, hosts, default, "the tasks of the Slurm job")


def _nodes(environ: Mapping[str, str]) -> list[str]:
    """The names of the nodes, which Slurm gives in a notation of its own."""
    names = environ.get("SLURM_JOB_NODELIST", "")
    if not names or not set("[,") & set(names):
        return [names] if names else []
    try:
        done = subprocess.run(
            ["scontrol", "show", "hostnames", names],
            env=dict(environ),
            capture_output=True,
            text=True,
            timeout=_ASK_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise CommandError(
            f"The nodes of the Slurm job ({names}) can't be found out: {error}.",
            "let scontrol be on PATH, or name the hosts with -H",
        ) from error
    return done.stdout.split()
