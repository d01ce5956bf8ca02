"""Horovod Elastic: ranks come and go while the job runs."""

from __future__ import annotations

from collections.abc import Sequence

from hvdkit_cli.run.launchers.base import as_line, without_horovod
from hvdkit_cli.run.launchers.gloo import horovodrun
from hvdkit_cli.run.request import Job


class Elastic:
    """horovodrun --gloo, with the fewest and the most ranks."""

    name = "gloo"
    in_words = "horovodrun over Gloo, elastic"

    def problem(self, job: Job) -> str | None:
        """Why it can't start this job here; None if it can."""
        if job.request.elastic is None:
            return "the job is not elastic"
        if job.request.bind not in ("auto", "none"):
            return f"it binds ranks to no cores (--bind {job.request.bind})"
        if job.request.discover is None and len(job.place.hosts) < 2:
            return "an elastic job needs --discover, or two hosts or more"
        return without_horovod()

    def command(self, job: Job, ranks_command: Sequence[str]) -> list[str]:
        """The command line that starts the ranks."""
        assert job.request.elastic is not None
        fewest, most = job.request.elastic
        counts = ["-np", str(job.ranks), "--min-np", str(fewest), "--max-np", str(most)]
        if job.request.discover is not None:
            hosts = ["--host-discovery-script", job.request.discover]
        else:
            hosts = ["-H", ",".join(f"{host.name}:{host.slots}" for host in job.place.hosts)]
        return [*horovodrun(job), *counts, *hosts, *ranks_command]

    def shown(self, job: Job) -> str:
        """What `--dry-run` prints."""
        return as_line(job, self.command(job, job.request.command))
