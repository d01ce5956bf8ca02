"""mpirun, by the wrapper in mpi/, which knows binding, network and environment of each MPI."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from hvdkit_cli.errors import CommandError
from hvdkit_cli.run.launchers.base import on_path, without_mpi
from hvdkit_cli.run.request import Job
from hvdkit_cli.scripts import FOLDER

_ASK_SECONDS = 60.0


class Mpirun:
    """Open MPI, MPICH or Intel MPI; inside Slurm and PBS, too."""

    name = "mpirun"
    in_words = "mpirun"

    def problem(self, job: Job) -> str | None:
        """Why it can't start this job here; None if it can."""
        if job.request.elastic is not None:
            return "MPI has no elastic jobs"
        if ":" in job.request.command:
            return "mpirun takes an argument ':' for the beginning of another program"
        missing = on_path(job, "mpirun") and on_path(job, "mpiexec")
        return without_mpi() or (missing and "there is no mpirun on PATH")

    def command(self, job: Job, ranks_command: Sequence[str]) -> list[str]:
        """The command line that starts the ranks."""
        request = job.request
        options = ["-np", str(job.ranks), "--bind", request.bind]
        if request.hosts is not None:
            options += ["-H", request.hosts]
        if request.hostfile is not None:
            options += ["--hostfile", str(request.hostfile)]
        if request.interface is not None:
            options += ["--interface", request.interface]
        for variable in request.variables:
            options += ["-x", variable]
        if request.oversubscribe:
            options += ["--oversubscribe"]
        wrapper = FOLDER.resolve() / "hvdkit-mpirun.sh"
        return ["bash", str(wrapper), *options, "--", *ranks_command]

    def shown(self, job: Job) -> str:
        """The command of mpirun itself, as the wrapper finds it out."""
        command = self.command(job, job.request.command)
        end = command.index("--")
        done = subprocess.run(
            [*command[:end], "--dry-run", *command[end:]],
            env=job.environ,
            capture_output=True,
            text=True,
            timeout=_ASK_SECONDS,
        )
        if done.returncode != 0:
            raise CommandError(f"mpirun can't start this job:\n{done.stderr}", "see above")
        return done.stdout.rstrip("\n")
