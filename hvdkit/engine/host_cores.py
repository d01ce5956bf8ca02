"""Which cores the ranks of this host have."""

from __future__ import annotations

import numpy as np

from hvdkit.engine.cores import affinity
from hvdkit.engine.topology import local_size, mpi_enabled, size


def cores_of_neighbours() -> list[frozenset[int]]:
    """The cores of each rank on this host.

    Over MPI the ranks tell each other. Gloo's launcher binds nothing, so there they are equal.
    """
    own = affinity()
    # Also a rank that is alone on its host: those of other hosts wait for it to come.
    if not mpi_enabled() or size() == 1:
        return [own] * local_size()
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    if world.Get_size() != size():  # the job is a part of MPI's world
        return [own] * local_size()
    host = world.Split_type(MPI.COMM_TYPE_SHARED)
    mask = np.zeros(4096, np.uint8)
    mask[list(own)] = 1
    masks = np.zeros((host.Get_size(), mask.size), np.uint8)
    host.Allgather(mask, masks)
    host.Free()
    return [frozenset(np.flatnonzero(row).tolist()) for row in masks]
