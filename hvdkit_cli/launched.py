"""What launchers and schedulers tell the processes that they start, by variables."""

from __future__ import annotations

import re
from collections.abc import Mapping

# srun's comes last: an mpirun that was started inside one of its tasks passes it on to all ranks.
_RANK_VARIABLES = ("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID")
_COUNT = re.compile(r"(\d+)(?:\(x(\d+)\))?")

OF_A_RANK = (
    *("OMPI_COMM_WORLD_", "OMPI_UNIVERSE_", "PMIX_RANK", "PMIX_NAMESPACE", "PMIX_SERVER_"),
    *("PMI_RANK", "PMI_SIZE", "PMI_FD", "MPI_LOCAL", "HYDI_"),
    *("HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_", "HOROVOD_CROSS_", "HOROVOD_HOSTNAME"),
    "HOROVOD_GLOO_RENDEZVOUS_",
)
"""How variables begin that are for a rank, and not for a launcher that is started in it.

srun's are not among them: what is started in an allocation needs them.
"""
OF_GLOOS_RANKS = ("HOROVOD_CONTROLLER", "HOROVOD_CPU_OPERATIONS", "HOROVOD_ELASTIC")
"""More of them over Gloo; elsewhere a user may have set them."""


def rank_of(environ: Mapping[str, str]) -> int | None:
    """The rank that a launcher has given to a process; None if none has."""
    values = (environ.get(name, "") for name in _RANK_VARIABLES)
    return next((int(value) for value in values if value.isdigit()), None)


def without_rank(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment without the rank of another job that this process is, or was, part of."""
    stale = OF_A_RANK + (OF_GLOOS_RANKS if "HOROVOD_RANK" in environ else ())
    return {name: value for name, value in environ.items() if not name.startswith(stale)}


def tasks_per_node(text: str) -> list[int]:
    """The tasks of each node, from Slurm's notation, such as "4(x2),3"."""
    return [int(count) for count, times in _COUNT.findall(text) for _ in range(int(times or 1))]
