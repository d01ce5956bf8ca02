"""What the launcher says in the environment, before MPI or Gloo has started."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

# (variable that holds the number of ranks on this host, the launcher's name)
_LOCAL_SIZE_VARIABLES = (
    ("HOROVOD_LOCAL_SIZE", "horovodrun over Gloo"),
    ("OMPI_COMM_WORLD_LOCAL_SIZE", "Open MPI"),
    ("MPI_LOCALNRANKS", "MPICH or Intel MPI"),
    ("SLURM_NTASKS_PER_NODE", "srun"),
)
# Over Gloo as well: what a keeper of hvdkit's puts into STARTED_BY, and the launcher's name.
STARTED_BY = "HVDKIT_STARTED_BY"
_KEEPERS = {"ray": "Ray over Gloo", "spark": "Spark over Gloo"}
_NOT_MPI = frozenset({"python", "horovodrun over Gloo", *_KEEPERS.values()})
_SIZE_VARIABLES = ("HOROVOD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS")


@dataclass(frozen=True)
class Launch:
    """What is known of the job before any rank can talk to another.

    Attributes:
        launcher: how a person calls it, or "python" for a process started by hand.
        size: number of ranks in the job.
        local_size: number of ranks on this host.
        is_elastic: whether the job goes on when ranks die or join (horovodrun --min-np).
    """

    launcher: str
    size: int
    local_size: int
    is_elastic: bool = False

    @property
    def is_open_mpi(self) -> bool:
        """Whether Open MPI's mpirun started this process."""
        return self.launcher == "Open MPI"

    @property
    def is_mpi(self) -> bool:
        """Whether an mpirun, or srun, started this process."""
        return self.launcher not in _NOT_MPI


def read_launch(environ: Mapping[str, str] = os.environ) -> Launch:
    """Read how this process was launched."""
    size = next((int(environ[v]) for v in _SIZE_VARIABLES if environ.get(v, "").isdigit()), 1)
    is_elastic = environ.get("HOROVOD_ELASTIC", "") not in ("", "0")
    for variable, launcher in _LOCAL_SIZE_VARIABLES:
        if environ.get(variable, "").isdigit():
            launcher = _KEEPERS.get(environ.get(STARTED_BY, ""), launcher)
            return Launch(launcher, size, int(environ[variable]), is_elastic)
    return Launch("python", 1, 1)


def missing_neighbours(
    size: int, local_size: int, environ: Mapping[str, str] = os.environ
) -> str | None:
    """What is wrong where srun has started more ranks than have found each other.

    An MPI that does not understand srun takes each of its tasks for a job of one rank; and one
    that knows hosts by other names than Slurm takes each rank to be alone on its host.

    Args:
        size: number of ranks, as they found each other.
        local_size: number of them on this host.
        environ: what the launcher says.

    Returns:
        A sentence with the remedy; None where all is well, and on all tasks of a host but one.
    """
    if not environ.get("SLURM_STEP_NUM_TASKS", "").isdigit() or _started_by_another(environ):
        return None
    tasks = int(environ["SLURM_STEP_NUM_TASKS"])
    if size == 1 < tasks:
        if environ.get("SLURM_PROCID") != "0":
            return None
        return (
            f"srun has started {tasks} tasks, but each of them is a job of one rank: they train "
            "alone, all as rank 0. MPI has to be told of each other by PMIx: srun --mpi=pmix, if "
            "`srun --mpi=list` shows it; otherwise start the job with mpirun in place of srun "
            "(HVDKIT_LAUNCHER=mpirun for the scripts in mpi/)."
        )
    here = _tasks_of_node(environ)
    if here > local_size and environ.get("SLURM_LOCALID") == "0":
        return (
            f"srun has started {here} tasks on this host, but MPI sees {local_size} of them there: "
            "ranks of one host share its GPUs and cores by the wrong numbers. This happens where "
            "Slurm's NodeName is not the name of the host (compare `hostname` with "
            f"{environ.get('SLURMD_NODENAME', 'SLURMD_NODENAME')}); start the job with mpirun, or "
            "let the administrator set NodeName."
        )
    return None


def _started_by_another(environ: Mapping[str, str]) -> bool:
    """Whether mpirun or horovodrun started this process; below srun, srun's tasks are theirs."""
    names = [name for name, launcher in _LOCAL_SIZE_VARIABLES if launcher != "srun"]
    return any(name in environ for name in names)


def _tasks_of_node(environ: Mapping[str, str]) -> int:
    """The tasks of this step here, from a list such as "4(x2),3"; 0 where it is not known."""
    counts = [
        int(count)
        for count, times in re.findall(
            r"(\d+)(?:\(x(\d+)\))?", environ.get("SLURM_STEP_TASKS_PER_NODE", "")
        )
        for _ in range(int(times or 1))
    ]
    node = environ.get("SLURM_NODEID", "")
    return counts[int(node)] if node.isdigit() and int(node) < len(counts) else 0
