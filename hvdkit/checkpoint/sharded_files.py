"""Checkpoints of models that are divided over the ranks of a mesh, read for any other division.

The ranks of one replica write a file each with their part of the model. For another number of
pipeline stages or tensor ranks, variables are found by their names, put together along the axis
over which they are divided, and divided anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hvdkit.checkpoint.arrays import Contents
from hvdkit.checkpoint.errors import CheckpointError
from hvdkit.checkpoint.layers import joined
from hvdkit.checkpoint.reshard import KEPT
from hvdkit.checkpoint.store import Manifest, part_file, rank_file
from hvdkit.checkpoint.variables import PATHS, Groups, path_of, sharded_dimension
from hvdkit.engine import topology
from hvdkit.mesh.layout import layout_of
from hvdkit.mesh.mesh import Mesh, Sizes

AXES = "axes"
# Its variables are made after the others are restored, so it is handed on as it is.
_METRICS = "metrics"
_STATE = "state"


def axes(groups: Groups) -> dict[str, list[int | None]]:
    """Along which axis variables are divided over the tensor ranks; None for whole ones."""
    return {group: [sharded_dimension(v) for v in variables] for group, variables in groups.items()}


@dataclass(frozen=True)
class MeshPosition:
    """Where a rank stands: the sizes (data, pipeline, tensor) and its indices."""

    sizes: Sizes
    indices: Sizes

    @staticmethod
    def here(mesh: Mesh | None) -> MeshPosition:
        """This rank's place in a mesh, or among replicas of whole models."""
        if mesh is None:
            return MeshPosition((topology.size(), 1, 1), (topology.rank(), 0, 0))
        return MeshPosition(
            (mesh.data, mesh.pipeline, mesh.tensor),
            (mesh.data_index, mesh.pipeline_index, mesh.tensor_index),
        )

    @property
    def divided(self) -> bool:
        """Whether the model is divided."""
        return self.sizes[1:] != (1, 1)


def read_shards(manifest: Manifest, place: MeshPosition, groups: Groups) -> Contents:
    """This rank's part of what the replicas have in common.

    Raises:
        CheckpointError: a file is damaged, or lacks a variable.
    """
    if manifest.mesh[1:] == place.sizes[1:]:
        return manifest.read(part_file(place.sizes, *place.indices[1:]))
    return _divided_anew(
        lambda p, t: manifest.read(part_file(manifest.mesh, p, t)), manifest, groups
    )


def read_own(manifest: Manifest, place: MeshPosition, groups: Groups, replica: int) -> Contents:
    """What belonged to this rank's place in an old replica.

    Raises:
        CheckpointError: a file is damaged, or lacks a variable.
    """
    _, pipeline, tensor = manifest.mesh

    def read(p: int, t: int) -> Contents:
        return manifest.read(rank_file((replica * pipeline + p) * tensor + t))

    if manifest.mesh[1:] == place.sizes[1:]:
        return read(*place.indices[1:])
    return _divided_anew(read, manifest, groups)


def _divided_anew(
    read: Callable[[int, int], Contents], manifest: Manifest, groups: Groups
) -> Contents:
    """The contents that a rank with these variables would have written itself."""
    _, pipeline, tensor = manifest.mesh
    stages = [[read(p, t) for t in range(tensor)] for p in range(pipeline)]
    places = _places(stages, manifest)
    arrays = {}
    for group, variables in groups.items():
        for position, variable in enumerate(variables):
            name = path_of(variable)
            if (group, name) not in places:
                raise CheckpointError(f"{manifest.path} has no variable {name} ({group}).")
            stage, old = places[group, name]
            whole = _whole(stages[stage], group, old)
            arrays[f"{group}/{position}"] = _part(whole, variable)
    layers = joined([files[0] for files in stages])
    values = {**stages[0][0].values, **layers.values, KEPT: _kept(stages, groups)}
    arrays |= layers.arrays
    values[PATHS] = {g: [path_of(v) for v in variables] for g, variables in groups.items()}
    last = stages[-1][0]
    if _METRICS in last.values[PATHS]:
        values[PATHS][_METRICS] = last.values[PATHS][_METRICS]
        arrays |= {n: a for n, a in last.arrays.items() if n.startswith(f"{_METRICS}/")}
    return Contents(arrays, values)


def _places(
    stages: list[list[Contents]], manifest: Manifest
) -> dict[tuple[str, str], tuple[int, int]]:
    """The stage and the position of each variable, by group and name."""
    places: dict[tuple[str, str], tuple[int, int]] = {}
    for stage, files in enumerate(stages):
        for group, names in files[0].values[PATHS].items():
            if len(set(names)) < len(names) and group != _METRICS:
                raise CheckpointError(
                    f"{manifest.path} has two variables of one name in {group!r}, so it can only "
                    f"be read with pipeline={manifest.mesh[1]}, tensor={manifest.mesh[2]}."
                )
            for position, name in enumerate(names):
                places.setdefault((group, name), (stage, position))
    return places


def _kept(stages: list[list[Contents]], groups: Groups) -> list[int]:
    """The places in the group "state" of weights of which each rank keeps its own values."""
    names = {
        files[0].values[PATHS][_STATE][place]
        for files in stages
        for place in files[0].values.get(KEPT, [])
    }
    return [i for i, v in enumerate(groups.get(_STATE, [])) if path_of(v) in names]


def _whole(files: list[Contents], group: str, position: int) -> np.ndarray:
    parts = [file.arrays[f"{group}/{position}"] for file in files]
    axis = files[0].values[AXES][group][position]
    return parts[0] if axis is None else np.concatenate(parts, axis)


def _part(whole: np.ndarray, variable: Any) -> np.ndarray:
    layout = layout_of(variable)
    return whole if layout is None else layout.shard_of(whole)
