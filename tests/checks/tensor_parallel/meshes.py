"""The meshes that the ranks of a job can form, and what is compared over them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np

import hvdkit as hvd
from hvdkit.mesh.mesh import Mesh, set_mesh


@cache
def made() -> list[Mesh]:
    """All ranks in one tensor group; where there are four, also two groups side by side."""
    meshes = [Mesh(tensor=hvd.size())]
    return [*meshes, Mesh(data=2, tensor=2)] if hvd.size() == 4 else meshes


def each() -> Iterator[Mesh]:
    """Each mesh, set as the current one for a while."""
    for mesh in made():
        set_mesh(mesh)
        yield mesh
        set_mesh(None)


def part(array: np.ndarray, mesh: Mesh, axis: int) -> np.ndarray:
    """This rank's part of an array."""
    return np.split(array, mesh.tensor, axis)[mesh.tensor_index]


def close(mine: object, expected: object, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    """Assert that two arrays are equal to float tolerance."""
    np.testing.assert_allclose(np.asarray(mine), np.asarray(expected), rtol=rtol, atol=atol)


def part_of_rows(array: np.ndarray, mesh: Mesh) -> np.ndarray:
    """The rows of this rank's replica."""
    return np.split(array, mesh.data)[mesh.data_index]
