"""Whether the ranks that a launcher has started have found each other.

An MPI that does not understand its launcher takes each process for a job of one rank: all train
alone, all as rank 0, and nothing fails.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from hvdkit.engine.launcher import slurm_tasks_here, started_by_srun

ALONE = "HVDKIT_ALONE"
"""Set to 1, it says that each process is meant to be a job of its own."""

# (number of processes, number of this one), as an mpirun tells them.
_MPIRUN_VARIABLES = (
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("PMI_SIZE", "PMI_RANK"),
)
_MEANT = f"If each of them is meant to be a job of its own, say so: {ALONE}=1."


@dataclass(frozen=True)
class Missing:
    """What is wrong with the ranks that found each other.

    Attributes:
        text: what, and the remedy.
        is_said_here: whether this process says it; one does for all that see the same.
        is_error: whether no rank may go on.
    """

    text: str
    is_said_here: bool
    is_error: bool


def missing_neighbours(
    size: int, local_size: int, environ: Mapping[str, str] = os.environ
) -> Missing | None:
    """Compare what the launcher has started with the ranks that found each other.

    Args:
        size: number of ranks, as they found each other.
        local_size: number of them on this host.
        environ: what the launcher says.

    Returns:
        What is wrong; None where all is well.
    """
    if "HOROVOD_SIZE" in environ:  # over Gloo, which knows no other ranks than these
        return None
    if started_by_srun(environ):
        return _tasks_of_srun(size, local_size, environ)
    if size == 1 and environ.get(ALONE) != "1":
        return _processes_of_mpirun(environ) or _tasks_without_srun(environ)
    return None


def _tasks_of_srun(size: int, local_size: int, environ: Mapping[str, str]) -> Missing | None:
    tasks, here = _number(environ, "SLURM_STEP_NUM_TASKS"), slurm_tasks_here(environ)
    if size == 1 < tasks:
        text = (
            f"srun has started {tasks} tasks, but each of them is a job of one rank: they would "
            "train alone, all as rank 0. MPI has to be told of each other by PMIx: srun "
            "--mpi=pmix, if `srun --mpi=list` shows it; otherwise start the job with mpirun in "
            f"place of srun (HVDKIT_LAUNCHER=mpirun for the scripts in mpi/). {_MEANT}"
        )
        return None if environ.get(ALONE) == "1" else _of_all(text, environ, "SLURM_PROCID")
    if here > local_size:
        text = (
            f"srun has started {here} tasks on this host, but MPI sees {local_size} of them there: "
            "ranks of one host share its GPUs and cores by the wrong numbers. This happens where "
            "Slurm's NodeName is not the name of the host (compare `hostname` with "
            f"{environ.get('SLURMD_NODENAME', 'SLURMD_NODENAME')}); start the job with mpirun, or "
            "let the administrator set NodeName."
        )
        return Missing(text, environ.get("SLURM_LOCALID") == "0", is_error=False)
    return None


def _processes_of_mpirun(environ: Mapping[str, str]) -> Missing | None:
    for count, number in _MPIRUN_VARIABLES:
        if (processes := _number(environ, count)) > 1:
            text = (
                f"mpirun has started {processes} processes, but each of them is a job of one rank: "
                "they would train alone, all as rank 0. It is the mpirun of another MPI than the "
                "one that Horovod was built with: compare `which mpirun` with what `hvdkit doctor` "
                f"shows. {_MEANT}"
            )
            return _of_all(text, environ, number)
    return None


def _tasks_without_srun(environ: Mapping[str, str]) -> Missing | None:
    """In a job's script, or on a node that salloc gave."""
    tasks = _number(environ, "SLURM_NTASKS")
    if tasks < 2 or any(variable in environ for variable, _ in _MPIRUN_VARIABLES):
        return None
    text = (
        f"this Slurm job has {tasks} tasks, but the script runs in one process: start it with srun "
        "--mpi=pmix, or with mpirun (mpi/slurm.sbatch shows both)."
    )
    return Missing(text, is_said_here=True, is_error=False)


def _of_all(text: str, environ: Mapping[str, str], number: str) -> Missing:
    return Missing(text, environ.get(number, "0") == "0", is_error=True)


def _number(environ: Mapping[str, str], variable: str) -> int:
    value = environ.get(variable, "")
    return int(value) if value.isdigit() else 0
