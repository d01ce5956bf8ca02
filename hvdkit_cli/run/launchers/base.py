"""What a launcher is, and what several of them need to know."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from typing import Protocol

from hvdkit_cli.installed import distribution
from hvdkit_cli.record import read_record
from hvdkit_cli.run.request import Job


class Launcher(Protocol):
    """Something that starts ranks.

    Attributes:
        name: what `--launcher` calls it.
        in_words: what messages call it.
    """

    name: str
    in_words: str

    def problem(self, job: Job) -> str | None:
        """Why it can't start this job here; None if it can."""

    def command(self, job: Job, ranks_command: Sequence[str]) -> list[str]:
        """The command line that starts the ranks, each of which runs `ranks_command`."""

    def shown(self, job: Job) -> str:
        """What `--dry-run` prints: a line that a shell takes."""


def as_line(job: Job, command: Sequence[str]) -> str:
    """A command as a line for a shell, with the values that `-x` gives to variables."""
    values = [variable for variable in job.request.variables if "=" in variable]
    return shlex.join([*(["env", *values] if values else []), *command])


def on_path(job: Job, program: str) -> str | None:
    """Why a program can't be used; None if it is on PATH."""
    found = shutil.which(program, path=job.environ.get("PATH"))
    return None if found else f"there is no {program} on PATH"


def without_mpi() -> str | None:
    """Why this installation can't run over MPI; None if it can, or if nobody knows."""
    if problem := without_horovod():
        return problem
    record = read_record()
    if record is not None and record.facts.get("mpi") == "none":
        return "Horovod was built without MPI (hvdkit build --mpi auto builds it with)"
    return None


def without_horovod() -> str | None:
    """Why Horovod can't be used; None if it is there."""
    return None if distribution("horovod") else "Horovod is not installed (hvdkit build)"
