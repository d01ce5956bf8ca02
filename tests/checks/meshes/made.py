"""The meshes that the ranks of the job can form."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import keras
import numpy as np

import hvdkit as hvd
from hvdkit.mesh.mesh import current_mesh
from hvdkit.parallel import PipelineModel, unsharded_values

from .models import gpt

SIZES = {4: [(2, 2, 1), (2, 1, 2), (1, 2, 2)], 8: [(2, 2, 2)]}


@cache
def mesh_of(sizes: tuple[int, int, int]) -> hvd.Mesh:
    """The mesh of these sizes (data, pipeline, tensor), the same object each time."""
    data, pipeline, tensor = sizes
    return hvd.Mesh(data=data, pipeline=pipeline, tensor=tensor)


@contextmanager
def using(sizes: tuple[int, int, int]) -> Iterator[hvd.Mesh]:
    """A mesh, set as the current one for a while."""
    mesh = mesh_of(sizes)
    hvd.set_mesh(mesh)
    try:
        yield mesh
    finally:
        hvd.set_mesh(None)


def each(*some: tuple[int, int, int]) -> Iterator[hvd.Mesh]:
    """Each mesh of the job in turn, or some of them."""
    for sizes in some or SIZES[hvd.size()]:
        with using(sizes) as mesh:
            yield mesh


def language_model(seed: int, **options: Any) -> keras.Model:
    """A small GPT, divided as the current mesh says."""
    mesh = current_mesh()
    assert mesh is not None
    keras.utils.set_random_seed(seed)
    if mesh.pipeline == 1:
        return gpt(True, **options)
    return PipelineModel(lambda: gpt(True, **options), micro_batches=2)


def whole_weights(model: keras.Model) -> list[np.ndarray] | None:
    """The weights of the undivided model; None on the later stages of a pipeline."""
    if isinstance(model, PipelineModel):
        return model.gather_weights()
    return unsharded_values(model.weights)


def require_weights(model: keras.Model, expected: list[np.ndarray], **tolerance: float) -> None:
    """The weights of the divided model are those of the undivided one."""
    weights = whole_weights(model)
    hvd.barrier()  # no replica may end before the others have joined their parts
    if weights is not None:
        assert len(weights) == len(expected)
        for mine, other in zip(weights, expected, strict=True):
            np.testing.assert_allclose(mine, other, **tolerance)
