"""Horovod's own launcher over Gloo: it needs no MPI, and starts ranks on other hosts by ssh."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hvdkit_cli.horovodrun import CODE
from hvdkit_cli.run.launchers.base import as_line, without_horovod
from hvdkit_cli.run.request import Job


class Gloo:
    """horovodrun --gloo."""

    name = "gloo"
    in_words = "horovodrun over Gloo"

    def problem(self, job: Job) -> str | None:
        """Why it can't start this job here; None if it can."""
        if job.request.elastic is not None:
            return "the job is elastic"
        if job.request.bind not in ("auto", "none"):
            return f"it binds ranks to no cores (--bind {job.request.bind})"
        return without_horovod()

    def command(self, job: Job, ranks_command: Sequence[str]) -> list[str]:
        """The command line that starts the ranks."""
        hosts = ["-H", _with_slots(job)]
        return [*horovodrun(job), "-np", str(job.ranks), *hosts, *ranks_command]

    def shown(self, job: Job) -> str:
        """What `--dry-run` prints."""
        return as_line(job, self.command(job, job.request.command))


def horovodrun(job: Job) -> list[str]:
    """The beginning of a command line over Gloo."""
    command = [sys.executable, "-c", CODE, "--gloo"]
    if job.request.interface is not None:
        command += ["--network-interfaces", job.request.interface]
    return command


def _with_slots(job: Job) -> str:
    """The hosts as horovodrun takes them, with the ranks of each: it starts one in every slot.

    With --oversubscribe they hold all ranks.
    """
    hosts = [(host.name, host.slots or 1) for host in job.place.hosts]
    if job.request.oversubscribe:
        enough = -(-job.ranks // len(hosts))
        hosts = [(name, max(slots, enough)) for name, slots in hosts]
    left, taken = job.ranks, []
    for name, slots in hosts:
        if left:
            taken.append(f"{name}:{min(slots, left)}")
            left -= min(slots, left)
    return ",".join(taken)
