"""Checkpoints of models that are sharded over the ranks of a mesh, read for any other mesh.

The ranks of one replica write a file each with their shard of the model. For another number of
pipeline stages or tensor ranks, variables are found by their names, put together along the axis
over which they are sharded, and sharded again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hvdkit.checkpoint.arrays import Contents
from hvdkit.checkpoint.layers import joined
from hvdkit.checkpoint.reshard import KEPT
from hvdkit.checkpoint.shards import StoredFiles
from hvdkit.checkpoint.store import Manifest
from hvdkit.checkpoint.variables import (
    ACCUMULATORS,
    AXES,
    DIFFERING_SLOTS,
    LOCAL_OPTIMIZER,
    OPTIMIZER,
    PATHS,
    STATE,
    Groups,
    kind_of,
    paths,
    sharded_dimension,
)
from hvdkit.engine import topology
from hvdkit.errors import CheckpointError
from hvdkit.exchange.tracked import Tracked
from hvdkit.mesh.mesh import Mesh, Sizes

_OF_OPTIMIZERS = (OPTIMIZER, LOCAL_OPTIMIZER, ACCUMULATORS, DIFFERING_SLOTS)

# Its variables are made after the others are restored, so it is handed on as it is.
_METRICS = "metrics"


def axes(groups: Groups) -> dict[str, list[int | None]]:
    """Along which axis variables are sharded over the tensor ranks; None for unsharded ones."""
    return {group: [sharded_dimension(row) for row in rows] for group, rows in groups.items()}


@dataclass(frozen=True)
class MeshPosition:
    """Where a rank stands: the sizes (data, pipeline, tensor) and its indices."""

    sizes: Sizes
    indices: Sizes

    @staticmethod
    def here(mesh: Mesh | None) -> MeshPosition:
        """Where this rank stands in a mesh, or among replicas of unsharded models."""
        if mesh is None:
            return MeshPosition((topology.size(), 1, 1), (topology.rank(), 0, 0))
        return MeshPosition(
            (mesh.data, mesh.pipeline, mesh.tensor),
            (mesh.data_index, mesh.pipeline_index, mesh.tensor_index),
        )

    @property
    def sharded(self) -> bool:
        """Whether a rank holds less than the model."""
        return self.sizes[1:] != (1, 1)


def read_shard(files: StoredFiles, here: MeshPosition, groups: Groups) -> Contents:
    """This rank's shard of what the replicas have in common.

    Raises:
        CheckpointError: a file is damaged, or lacks a variable.
    """
    if files.manifest.mesh[1:] == here.sizes[1:]:
        return files.common(*here.indices[1:])
    return _resharded(files.common, files.manifest, groups)


def read_own(files: StoredFiles, here: MeshPosition, groups: Groups, replica: int) -> Contents:
    """What belonged to the rank that stood here in an old replica.

    Raises:
        CheckpointError: a file is damaged, or lacks a variable.
    """
    if files.manifest.mesh[1:] == here.sizes[1:]:
        return files.own(replica, *here.indices[1:])
    return _resharded(lambda p, t: files.own(replica, p, t), files.manifest, groups)


def _resharded(
    read: Callable[[int, int], Contents], manifest: Manifest, groups: Groups
) -> Contents:
    """The contents that a rank with these variables would have written itself."""
    _, pipeline, tensor = manifest.mesh
    stages = [[read(p, t) for t in range(tensor)] for p in range(pipeline)]
    arrays = {}
    known = {group for files in stages for group in files[0].values[PATHS]}
    groups = {group: rows for group, rows in groups.items() if group in known}
    for group, rows in groups.items():
        places = _places(stages, group, [row.path for row in rows], manifest)
        for position, (row, (stage, old)) in enumerate(zip(rows, places, strict=True)):
            value = _unsharded(stages[stage], group, old)
            arrays[f"{group}/{position}"] = _shard_of(value, row)
    layers = joined([files[0] for files in stages])
    values = {**stages[0][0].values, **layers.values, KEPT: _kept(stages, groups)}
    arrays |= layers.arrays
    values[PATHS] = paths(groups)
    last = stages[-1][0]
    if _METRICS in last.values[PATHS]:
        values[PATHS][_METRICS] = last.values[PATHS][_METRICS]
        arrays |= {n: a for n, a in last.arrays.items() if n.startswith(f"{_METRICS}/")}
    return Contents(arrays, values)


def _places(
    stages: list[list[Contents]], group: str, names: list[str], manifest: Manifest
) -> list[tuple[int, int]]:
    """The stage and the position of each variable of a group.

    Raises:
        CheckpointError: a variable is on no stage, or a stage has two of one name.
    """
    stored = [files[0].values[PATHS].get(group, []) for files in stages]
    sizes = f"pipeline={manifest.mesh[1]}, tensor={manifest.mesh[2]}"
    if any(len(set(each)) < len(each) for each in stored):
        raise CheckpointError(
            f"{manifest.path} has two variables of one name in {group!r}, so it can only be read "
            f"with {sizes}."
        )
    places = _by_name(stored, names)
    owners = {len({name.split("/")[0] for name in each}) for each in (*stored, names)}
    if None in places and kind_of(group) in _OF_OPTIMIZERS and len(owners) == 1:
        places = _by_name([_without_owners(each) for each in stored], _without_owners(names))
    found = [place for place in places if place is not None]
    if len(found) < len(places):
        raise CheckpointError(
            f"{manifest.path} has no variable {names[places.index(None)]} ({group}). For another "
            f"mesh than {sizes}, of which it is, variables are found by their names, which Keras "
            "numbers by what a process has made before: give layers names, or call "
            "keras.backend.clear_session() before the model is made, then and now."
        )
    return found


def _by_name(stored: list[list[str]], names: list[str]) -> list[tuple[int, int] | None]:
    places: dict[str, tuple[int, int]] = {}
    for stage, each in enumerate(stored):
        for position, name in enumerate(each):
            places.setdefault(name, (stage, position))  # the first stage that shares it
    return [places.get(name) for name in names]


def _without_owners(names: list[str]) -> list[str]:
    """Names of an optimizer's variables with a number for its own name, which Keras counts on."""
    numbers: dict[str, int] = {}
    split = [name.partition("/") for name in names]
    return [f"{numbers.setdefault(owner, len(numbers))}/{rest}" for owner, _, rest in split]


def _kept(stages: list[list[Contents]], groups: Groups) -> list[int]:
    """The positions in the group "state" of weights of which each rank keeps its own values."""
    names = {
        files[0].values[PATHS][STATE][position]
        for files in stages
        for position in files[0].values.get(KEPT, [])
    }
    return [i for i, row in enumerate(groups.get(STATE, [])) if row.path in names]


def _unsharded(files: list[Contents], group: str, position: int) -> np.ndarray:
    shards = [file.arrays[f"{group}/{position}"] for file in files]
    axis = files[0].values[AXES][group][position]
    return shards[0] if axis is None else np.concatenate(shards, axis)


def _shard_of(value: np.ndarray, row: Tracked) -> np.ndarray:
    return value if row.layout is None else row.layout.shard_of(value)
