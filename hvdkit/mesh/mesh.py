"""The mesh: ranks laid out by what they share, data, a pipeline, or the tensors of a layer.

With `tensor` innermost, rank = (data_index * pipeline + pipeline_index) * tensor + tensor_index:
the ranks that communicate most are next to each other, on one host where they fit.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import product
from typing import Literal

from hvdkit.engine import (
    ProcessSet,
    global_process_set,
    require_initialized,
    require_same,
    topology,
)
from hvdkit.engine.alone import own_ranks
from hvdkit.engine.process_sets import process_set_of_ranks

Axis = Literal["data", "pipeline", "tensor"]
AXES: tuple[Axis, Axis, Axis] = ("data", "pipeline", "tensor")
# Of data, pipeline and tensor: sizes or indices.
Sizes = tuple[int, int, int]


class Mesh:
    """A layout of all ranks: `data` replicas of a model of `pipeline` stages of `tensor` ranks.

    Every rank of the job makes it, with the same sizes.

    Args:
        data: number of replicas, which train on different rows; None for as many as fit.
        pipeline: number of stages that a model is cut into.
        tensor: number of ranks that the layers of a stage are sharded over.

    Attributes:
        data: number of replicas.
        pipeline: number of stages.
        tensor: number of ranks of a stage in a replica.
        data_index: this rank's replica, from 0.
        pipeline_index: this rank's stage, from 0.
        tensor_index: this rank's shard of the layers, from 0.
        data_set: the ranks that hold the same weights of the model as this one (`hvd.ProcessSet`).
        pipeline_set: the ranks of this one's pipeline, in the order of the stages.
        tensor_set: the ranks that this one's layers are sharded over.

    Raises:
        NotInitializedError: `hvd.init` has not been called.
        ValueError: on every rank: the sizes do not fit the number of ranks.
        RankMismatchError: on every rank: the ranks give different sizes.

    Example:
        >>> mesh = hvd.Mesh(data=2, tensor=2)  # 4 ranks
        >>> hvd.set_mesh(mesh)
    """

    def __init__(self, data: int | None = None, pipeline: int = 1, tensor: int = 1) -> None:
        require_initialized("hvd.Mesh()")
        world = topology.size()
        if world > 1:
            require_same("the sizes of the mesh", [data, pipeline, tensor])
        if problem := _problem(data, pipeline, tensor, world):
            raise ValueError(problem)
        self.data = world // (pipeline * tensor) if data is None else data
        self.pipeline = pipeline
        self.tensor = tensor
        self.data_index, self.pipeline_index, self.tensor_index = self.indices_of(topology.rank())
        self.tensor_set = self._own_set(
            [self.rank_at(d, p, t) for t in range(tensor)]
            for d, p in product(range(self.data), range(pipeline))
        )
        self.pipeline_set = self._own_set(
            [self.rank_at(d, p, t) for p in range(pipeline)]
            for d, t in product(range(self.data), range(tensor))
        )
        self.data_set = self._own_set(
            [self.rank_at(d, p, t) for d in range(self.data)]
            for p, t in product(range(pipeline), range(tensor))
        )

    def indices_of(self, rank: int) -> Sizes:
        """The data, pipeline and tensor index of a rank."""
        rest, tensor_index = divmod(rank, self.tensor)
        return (*divmod(rest, self.pipeline), tensor_index)

    def place_of(self, rank: int) -> Sizes:
        """The old name of `indices_of`."""
        warnings.warn("Mesh.place_of is called indices_of now.", DeprecationWarning, stacklevel=2)
        return self.indices_of(rank)

    def rank_at(self, data_index: int, pipeline_index: int, tensor_index: int) -> int:
        """The rank with these indices."""
        return (data_index * self.pipeline + pipeline_index) * self.tensor + tensor_index

    def size_along(self, axis: Axis) -> int:
        """Number of ranks along an axis."""
        return dict(zip(AXES, (self.data, self.pipeline, self.tensor), strict=True))[axis]

    def index_along(self, axis: Axis) -> int:
        """This rank's index along an axis, from 0."""
        indices = (self.data_index, self.pipeline_index, self.tensor_index)
        return dict(zip(AXES, indices, strict=True))[axis]

    def set_along(self, axis: Axis) -> ProcessSet:
        """The ranks along an axis that this one is among, in the order of their indices."""
        sets = (self.data_set, self.pipeline_set, self.tensor_set)
        return dict(zip(AXES, sets, strict=True))[axis]

    def _own_set(self, groups: Iterator[list[int]]) -> ProcessSet:
        """Make the process sets of all groups, which takes every rank; returns this rank's."""
        sets = [(ranks, process_set_of_ranks(ranks)) for ranks in groups]
        return next(process_set for ranks, process_set in sets if topology.rank() in ranks)

    @property
    def is_model_parallel(self) -> bool:
        """Whether a rank holds only some of the model's weights."""
        return self.pipeline * self.tensor > 1

    def __repr__(self) -> str:
        return f"Mesh(data={self.data}, pipeline={self.pipeline}, tensor={self.tensor})"


_current: Mesh | None = None


def set_mesh(mesh: Mesh | None) -> None:
    """Make `mesh` the one that layers, optimizers, data and callbacks use; None for none."""
    global _current
    _current = mesh


def current_mesh() -> Mesh | None:
    """The mesh that `set_mesh` was given, or None."""
    return _current


def over_replicas(process_set: ProcessSet) -> ProcessSet:
    """The ranks that train on different rows: with a mesh, "all ranks" means those.

    Args:
        process_set: what a user has chosen, or `hvd.global_process_set`.
    """
    if process_set.process_set_id != 0:
        return process_set
    if (own := own_ranks()) is not None:
        return own
    return process_set if _current is None else _current.data_set


def replicas() -> ProcessSet:
    """The ranks that train on different rows: all, or the `data_set` of the mesh."""
    return over_replicas(global_process_set)


def replica_of(rank: int) -> int:
    """Which replica of the model a rank belongs to: the rank itself, where there is no mesh."""
    if _current is None:
        return rank
    return rank // (_current.pipeline * _current.tensor)


def _problem(data: int | None, pipeline: int, tensor: int, world: int) -> str | None:
    for name, size in (("data", data), ("pipeline", pipeline), ("tensor", tensor)):
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            return f"{name}={size!r} of hvd.Mesh: a size is an integer above 0."
    model = pipeline * tensor
    if (world % model == 0) if data is None else (data * model == world):
        return None
    sizes = f"pipeline={pipeline}, tensor={tensor}"
    if data is not None:
        sizes = f"data={data}, {sizes}"
    return (
        f"hvd.Mesh({sizes}) does not fit the {world} ranks of this job. These fit "
        f"(data x pipeline x tensor): {', '.join(_fitting(world))}."
    )


def _fitting(world: int) -> list[str]:
    divisors = [n for n in range(1, world + 1) if world % n == 0]
    return [
        f"{world // (p * t)} x {p} x {t}"
        for p, t in product(divisors, divisors)
        if world % (p * t) == 0
    ]
