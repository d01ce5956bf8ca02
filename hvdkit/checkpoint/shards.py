"""Shards of variables, one for each replica, in the files of a checkpoint.

    values["shards"]       {GROUP: [[position, start, stop, shape], ...]}, in the file of a rank
    "sharded GROUP/3"      the fourth of these: elements `start` to `stop` of the variable that
                           stands at `position` in the group

A group, such as "optimizer", holds its other variables where it always does. Read, it has all of
them, whole: put together from the files of all replicas, so that it does not matter how many wrote
it. Where a rank goes on with the shards that it wrote itself, it reads no others'.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from hvdkit.checkpoint.arrays import Contents
from hvdkit.checkpoint.store import Manifest, rank_file, shard_file
from hvdkit.checkpoint.variables import AXES, PATHS, Groups
from hvdkit.errors import CheckpointError

SHARDS = "shards"
_PREFIX = "sharded "

Described = dict[str, list[list[Any]]]


def described(groups: Groups) -> Described:
    """Which variables of some groups are shards, and of what."""
    found: Described = {}
    for group, rows in groups.items():
        shards = [
            [position, row.shard.start, row.shard.stop, list(row.shard.shape)]
            for position, row in enumerate(rows)
            if row.shard is not None
        ]
        if shards:
            found[group] = shards
    return found


def only_shards(groups: Groups) -> Groups:
    """The shards among some variables, by the names of their groups in a rank's file."""
    found = {g: [row for row in rows if row.shard is not None] for g, rows in groups.items()}
    return {f"{_PREFIX}{group}": rows for group, rows in found.items() if rows}


def without_shards(groups: Groups) -> Groups:
    """The other variables."""
    return {g: [row for row in rows if row.shard is None] for g, rows in groups.items()}


class StoredFiles:
    """The files of a checkpoint, with all variables in their groups.

    Args:
        manifest: the checkpoint.
        replica: the replica whose shards are read as they are; None to put those of all together.
    """

    def __init__(self, manifest: Manifest, replica: int | None = None) -> None:
        self.manifest = manifest
        self._replica = replica
        self._own: Contents | None = None

    def common(self, stage: int, tensor_index: int) -> Contents:
        """What the replicas have in common, of a shard of the model.

        Raises:
            CheckpointError: a file is damaged, or shards are missing.
        """
        contents = self.manifest.read(shard_file(self.manifest.mesh, stage, tensor_index))
        return self.completed(contents, stage, tensor_index)

    def own(self, replica: int, stage: int, tensor_index: int) -> Contents:
        """What belonged to a rank.

        Raises:
            CheckpointError: see `common`.
        """
        contents = self._of_rank(replica, stage, tensor_index)
        return self.completed(contents, stage, tensor_index)

    def completed(self, contents: Contents, stage: int, tensor_index: int) -> Contents:
        """Contents whose groups have their shards, too.

        Args:
            contents: as they are in a file.
            stage: the stage whose file it is.
            tensor_index: the tensor rank whose file it is.

        Raises:
            CheckpointError: see `common`.
        """
        first = self._of_rank(self._replica or 0, stage, tensor_index)
        groups = [g for g in first.values.get(SHARDS, {}) if g in contents.values[PATHS]]
        if not groups:
            return contents
        files = [first]
        if self._replica is None:
            replicas = range(1, self.manifest.mesh[0])
            files += [self._of_rank(replica, stage, tensor_index) for replica in replicas]
        try:
            for group in groups:
                contents = _with_shards(contents, group, files, alone=self.alone)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"the shards in {self.manifest.path} do not make whole variables: {error}"
            ) from error
        return contents

    @property
    def alone(self) -> bool:
        """Whether a rank reads no shards but its own."""
        return self._replica is not None

    def _of_rank(self, replica: int, stage: int, tensor_index: int) -> Contents:
        _, pipeline, tensor = self.manifest.mesh
        rank = (replica * pipeline + stage) * tensor + tensor_index
        if not self.alone:
            return self.manifest.read(rank_file(rank))
        if self._own is None:  # it is asked for more than once
            self._own = self.manifest.read(rank_file(rank))
        return self._own


def _with_shards(
    contents: Contents, group: str, files: Sequence[Contents], *, alone: bool
) -> Contents:
    """Contents with all variables of a group, in their order."""
    shards = files[0].values[SHARDS][group]
    count = len(shards) + len(contents.values[PATHS][group])
    others = itertools.count()
    positions = {entry[0]: number for number, entry in enumerate(shards)}
    stored = f"{_PREFIX}{group}"
    arrays = {n: a for n, a in contents.arrays.items() if not n.startswith(f"{group}/")}
    new_names, new_axes = [], []
    for position in range(count):
        # Both may be one file, that of this rank.
        is_shard = position in positions
        source, of = (files[0], stored) if is_shard else (contents, group)
        number = positions[position] if is_shard else next(others)
        new_names.append(source.values[PATHS][of][number])
        new_axes.append(source.values[AXES][of][number])
        if alone or not is_shard:
            array = source.arrays[f"{of}/{number}"]
        else:
            array = _together(new_names[-1], group, number, files)
        arrays[f"{group}/{position}"] = array
    values = dict(contents.values)
    values[PATHS] = {**values[PATHS], group: new_names}
    values[AXES] = {**values[AXES], group: new_axes}
    return Contents(arrays, values)


def _together(name: str, group: str, number: int, files: Sequence[Contents]) -> np.ndarray:
    """A whole variable from the shards of all replicas."""
    parts = [
        (*file.values[SHARDS][group][number][1:], file.arrays[f"{_PREFIX}{group}/{number}"])
        for file in files
    ]
    parts = sorted((part for part in parts if part[1] > part[0]), key=lambda part: int(part[0]))
    ends = [0, *(stop for _, stop, _, _ in parts)]
    shape = parts[0][2] if parts else [0]
    if [start for start, *_ in parts] != ends[:-1] or ends[-1] != math.prod(shape):
        raise ValueError(f"elements of {name} are missing")
    return np.concatenate([array.reshape(-1) for *_, array in parts]).reshape(shape)
