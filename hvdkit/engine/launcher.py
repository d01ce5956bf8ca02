"""What the launcher says in the environment, before MPI or Gloo has started."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from hvdkit_cli.launched import tasks_per_node

# (variable that holds the number of ranks on this host, the launcher's name)
_LOCAL_SIZE_VARIABLES = (
    ("HOROVOD_LOCAL_SIZE", "horovodrun over Gloo"),
    ("OMPI_COMM_WORLD_LOCAL_SIZE", "Open MPI"),
    ("MPI_LOCALNRANKS", "MPICH or Intel MPI"),
)
# Over Gloo as well: what a keeper of hvdkit's puts into STARTED_BY, and the launcher's name.
STARTED_BY = "HVDKIT_STARTED_BY"
_KEEPERS = {"ray": "Ray over Gloo", "spark": "Spark over Gloo"}
_NOT_MPI = frozenset({"python", "horovodrun over Gloo", *_KEEPERS.values()})
_SIZE_VARIABLES = ("HOROVOD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


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
    if started_by_srun(environ):
        tasks = int(environ["SLURM_STEP_NUM_TASKS"])
        return Launch("srun", tasks, max(1, slurm_tasks_here(environ)))
    return Launch("python", 1, 1)


def started_by_srun(environ: Mapping[str, str]) -> bool:
    """Whether srun itself started this process, and no mpirun or horovodrun below it."""
    is_task = environ.get("SLURM_STEP_NUM_TASKS", "").isdigit()
    return is_task and not any(name in environ for name, _ in _LOCAL_SIZE_VARIABLES)


def slurm_tasks_here(environ: Mapping[str, str]) -> int:
    """The tasks of this step of srun's on this host; 0 where it is not known."""
    counts = tasks_per_node(environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    node = environ.get("SLURM_NODEID", "")
    return counts[int(node)] if node.isdigit() and int(node) < len(counts) else 0
