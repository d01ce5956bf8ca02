"""What the user asks for, and the job that comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hvdkit_cli.run.hosts import Host


@dataclass(frozen=True)
class Request:
    """The command line of `hvdkit run`.

    Attributes:
        command: what each rank runs.
        ranks: number of ranks; None where it was not given.
        hosts: `-H`, as it was given.
        hostfile: `--hostfile`.
        elastic: fewest and most ranks of an elastic job; None for one that is not.
        discover: the command that prints the hosts of an elastic job.
        launcher: auto, mpirun, srun or gloo.
        interface: the network to use.
        bind: how ranks are bound to cores, as the wrapper of mpirun names it.
        variables: what `-x` names, each NAME or NAME=VALUE.
        oversubscribe: whether more ranks than slots are right.
    """

    command: Sequence[str]
    ranks: int | None = None
    hosts: str | None = None
    hostfile: Path | None = None
    elastic: tuple[int, int] | None = None
    discover: str | None = None
    launcher: str = "auto"
    interface: str | None = None
    bind: str = "auto"
    variables: Sequence[str] = ()
    oversubscribe: bool = False


@dataclass(frozen=True)
class Place:
    """Where ranks can run.

    Attributes:
        kind: slurm, pbs, given (by -H or --hostfile) or machine.
        source: completes "counted from ...".
        hosts: the hosts; empty where they are discovered while the job runs.
        default: number of ranks where none is asked for; None where it can't be known.
        why: completes "N ranks: ..." where that number was taken.
    """

    kind: str
    source: str
    hosts: Sequence[Host]
    default: int | None
    why: str


@dataclass(frozen=True)
class Job:
    """A job to start.

    Attributes:
        request: what the user asks for.
        place: where its ranks can run.
        ranks: number of ranks; for an elastic job, to start with.
        environ: the environment of the launcher, without what belongs to one start of it.
    """

    request: Request
    place: Place
    ranks: int
    environ: dict[str, str] = field(repr=False)
