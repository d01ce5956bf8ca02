"""What starts the ranks: one launcher a file, the first that can start a job here is taken.

A new launcher is a new file here, and a line in `LAUNCHERS`.
"""

from __future__ import annotations

from hvdkit_cli.errors import CommandError
from hvdkit_cli.run.launchers.base import Launcher
from hvdkit_cli.run.launchers.elastic import Elastic
from hvdkit_cli.run.launchers.gloo import Gloo
from hvdkit_cli.run.launchers.mpirun import Mpirun
from hvdkit_cli.run.launchers.srun import Srun
from hvdkit_cli.run.request import Job

LAUNCHERS: tuple[Launcher, ...] = (Elastic(), Srun(), Mpirun(), Gloo())


def choose(job: Job) -> Launcher:
    """The launcher for a job: the one that was asked for, or the first that can start it here.

    Raises:
        CommandError: the one that was asked for can't, or none can; says why.
    """
    asked = job.request.launcher
    wanted = [each for each in LAUNCHERS if asked in ("auto", each.name)]
    problems = [(each.name, each.problem(job)) for each in wanted]
    for launcher, (_, problem) in zip(wanted, problems, strict=True):
        if problem is None:
            return launcher
    why = "; ".join(f"{name}: {problem}" for name, problem in problems if problem)
    if asked != "auto":
        raise CommandError(f"--launcher {asked} can't start this job: {why}.", "leave it out")
    raise CommandError(f"Nothing here can start this job: {why}.", "hvdkit doctor")
