"""The state of a training run, as it goes into a checkpoint and comes back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hvdkit.checkpoint.arrays import Contents
from hvdkit.checkpoint.layers import (
    add_layers,
    other_layers,
    require_files_inside,
    restore_layers,
)
from hvdkit.checkpoint.reshard import KEPT, reshard
from hvdkit.checkpoint.saver import Snapshot
from hvdkit.checkpoint.sharded_files import MeshPosition, axes, read_own, read_shard
from hvdkit.checkpoint.shards import (
    SHARDS,
    StoredFiles,
    described,
    only_shards,
    without_shards,
)
from hvdkit.checkpoint.store import SHARED, Manifest, rank_file, shard_file
from hvdkit.checkpoint.variables import (
    ACCUMULATORS,
    AXES,
    OPTIMIZER,
    PATHS,
    Groups,
    assign,
    copies,
    drop_missing,
    group_of,
    groups_of,
    kept_by_rank,
    kind_of,
    misfit,
    paths,
)
from hvdkit.engine import logger, raise_everywhere, topology
from hvdkit.errors import CheckpointError
from hvdkit.mesh.mesh import current_mesh
from hvdkit.optimizers.composition import mesh_of
from hvdkit.state.building import BuiltWith, build_as, build_for_fit, built_with
from hvdkit.state.outside_variables import keepers, remake_functions, renew
from hvdkit.state.reachable import (
    COMPILED,
    FoundOptimizer,
    has_variables,
    leading_optimizer,
    optimizers_of,
)

_BUILT_WITH = "built_with"


class TrainingState:
    """A model and its optimizers, to be saved and restored.

    Args:
        model: a built model.
        optimizer: an optimizer, or a list, tuple or dictionary of them, besides those that the
            model holds; or None.

    Raises:
        ValueError: the model has no variables yet.
    """

    def __init__(self, model: Any, optimizer: Any = None) -> None:
        if not has_variables(model):
            raise ValueError(
                f"the model {model.name!r} has no variables yet, which a checkpoint could hold: "
                "give it an Input, or call it on a batch first."
            )
        self.model = model
        self._given = optimizer
        build_for_fit(model, self._optimizers())
        mesh = mesh_of(leading_optimizer(model, optimizer)) or current_mesh()
        self.position = MeshPosition.here(mesh)

    def snapshot(
        self,
        about: dict[str, Any],
        *,
        shared_arrays: dict[str, np.ndarray] | None = None,
        own_groups: Groups | None = None,
        own_values: dict[str, Any] | None = None,
    ) -> Snapshot:
        """Copy the state.

        Args:
            about: what goes into the manifest: plain data, the same on all ranks.
            shared_arrays: more arrays that all ranks have in common.
            own_groups: more variables of this rank.
            own_values: plain data of this rank.
        """
        found = self._optimizers()
        groups, mine = groups_of(self.model, found)
        sharded = {**groups, **mine}
        groups, mine = without_shards(groups), without_shards(mine)
        shared, shard = None, None
        if self.position.sharded:
            shard = self._common(groups, found) if self.position.indices[0] == 0 else None
            groups = {}
        if topology.rank() == 0:
            shared = _contents(groups) if self.position.sharded else self._common(groups, found)
            shared.arrays.update(shared_arrays or {})
        own = _contents({**mine, **only_shards(sharded), **(own_groups or {})})
        add_layers(own, keepers(self.model, own=True))
        own.values.update({KEPT: kept_by_rank(mine), **(own_values or {})})
        if shards := described(sharded):
            own.values[SHARDS] = shards
        return Snapshot(shared, own, about, self.position, shard)

    def restore(self, manifest: Manifest) -> tuple[Contents, Contents]:
        """Set all variables, and what layers keep outside of them, to those of a checkpoint.

        Returns:
            What the ranks have in common, and what belongs to this rank.

        Raises:
            CheckpointError: on every rank: a file is damaged, or belongs to another model.
        """
        shared, shard, own, problem = Contents(), Contents(), Contents(), None
        groups: Groups = {}
        own_groups: Groups = {}
        other_mesh = manifest.mesh[1:] != self.position.sizes[1:]
        alike, by_rank = keepers(self.model), keepers(self.model, own=True)
        lost: list[str] = []
        try:
            shared = manifest.read(SHARED)
            stored = manifest.read(rank_file(0)).values[PATHS]
            if not other_mesh:
                shard = manifest.read(shard_file(manifest.mesh, *self.position.indices[1:]))
            found, lost = self._build_as_stored(shard.values.get(_BUILT_WITH), stored)
            groups, own_groups = groups_of(self.model, found)
            files = self._files(manifest, {**groups, **own_groups})
            if other_mesh:
                shard = read_shard(files, self.position, groups)
            else:
                shard = files.completed(shard, *self.position.indices[1:])
            drop_missing(groups, shard.values[PATHS])
            _leave_slots(groups, shard, found)
            own = self._own_contents(files, own_groups)
            drop_missing(own_groups, own.values[PATHS])
            source = str(manifest.path)
            require_files_inside(shard, source)
            require_files_inside(own, source)
            others = other_layers(shard, alike, by_name=other_mesh) or other_layers(
                own, by_rank, by_name=other_mesh
            )
            problem = misfit(groups, shard.arrays, shard.values[PATHS], source, others) or misfit(
                own_groups, own.arrays, own.values[PATHS], source
            )
        except CheckpointError as error:
            problem = str(error)
        raise_everywhere(problem, CheckpointError)
        assign(groups, shard.arrays)
        assign(own_groups, own.arrays)
        changed = restore_layers(shard, alike, by_name=other_mesh)
        changed |= restore_layers(own, by_rank, by_name=other_mesh)
        if renew(self.model) | changed:
            remake_functions(self.model)
        if lost and topology.rank() == 0:
            logger.warning("hvdkit: %s %s", manifest.path, "; ".join(lost))
        return shared, own

    def _optimizers(self) -> list[FoundOptimizer]:
        return optimizers_of(self.model, self._given)

    def _build_as_stored(
        self, known: BuiltWith | None, stored: dict[str, list[str]]
    ) -> tuple[list[FoundOptimizer], list[str]]:
        """Build optimizers as they were when the checkpoint was written.

        Args:
            known: what they were built with; None where that is not known: then
                `model.optimizer` trained all of the model.
            stored: the stored paths of what belongs to a rank.

        Returns:
            The optimizers whose state can be restored, and what is to be said of the others.
        """
        found, lost = [], []
        foreign = build_as(self.model, self._optimizers(), known or {})
        for one in self._optimizers():
            if known is None and one.name == COMPILED and not one.optimizer.built:
                one.optimizer.build(self.model.trainable_variables)
            given = one.name == COMPILED and self._given is not None
            unused = self._given is not None and not one.optimizer.built
            if one in foreign:
                lost.append(
                    f"holds the state of {one}, which trains variables that are not the model's: "
                    "to restore it, build it before"
                )
            elif group_of(ACCUMULATORS, one) in stored or given:
                found.append(one)
            elif not unused:
                lost.append(f"holds no state of {one}, which stays as it is")
        return found, lost

    def _common(self, groups: Groups, found: Sequence[FoundOptimizer]) -> Contents:
        contents = _contents(groups)
        contents.values[_BUILT_WITH] = built_with(self.model, found)
        add_layers(contents, keepers(self.model))
        return contents

    def _files(self, manifest: Manifest, groups: Groups) -> StoredFiles:
        """The files, of which this rank's own shards are enough if it has the same now."""
        if manifest.mesh == self.position.sizes:
            own = manifest.read(rank_file(topology.rank()))
            if own.values.get(SHARDS, {}) == described(groups):
                return StoredFiles(manifest, self.position.indices[0])
        return StoredFiles(manifest)

    def _own_contents(self, files: StoredFiles, groups: Groups) -> Contents:
        replica, replicas = self.position.indices[0], self.position.sizes[0]
        old = files.manifest.mesh[0]

        def read(one: int) -> Contents:
            return read_own(files, self.position, groups, one)

        if old != replicas:
            return reshard(replica, old, read)
        contents = read(replica)
        # Shards of gradients that are accumulated are of the mean over the replicas.
        if any(kind_of(group) == ACCUMULATORS for group in described(groups)) and not files.alone:
            means = reshard(replica, old, read).arrays
            contents.arrays.update({n: a for n, a in means.items() if _is_accumulator(n)})
        return contents


def _is_accumulator(name: str) -> bool:
    return kind_of(name.split("/")[0]) == ACCUMULATORS


def _contents(groups: Groups) -> Contents:
    return Contents(copies(groups), {PATHS: paths(groups), AXES: axes(groups)})


def _leave_slots(groups: Groups, shard: Contents, found: Sequence[FoundOptimizer]) -> None:
    """Of an optimizer that was not built when it was saved, only the first variables are stored."""
    known = shard.values.get(_BUILT_WITH)
    for one in found:
        group = group_of(OPTIMIZER, one)
        if known is not None and one.name not in known and group in groups:
            groups[group] = groups[group][: len(shard.values[PATHS].get(group, []))]
