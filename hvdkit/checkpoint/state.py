"""The state of a training run, as it goes into a checkpoint and comes back."""

from __future__ import annotations

from typing import Any

import numpy as np

from hvdkit.checkpoint.arrays import Contents
from hvdkit.checkpoint.errors import CheckpointError
from hvdkit.checkpoint.parts import AXES, Place, axes, read_own, read_part
from hvdkit.checkpoint.resplit import resplit
from hvdkit.checkpoint.saver import Snapshot
from hvdkit.checkpoint.store import SHARED, Manifest
from hvdkit.checkpoint.variables import (
    PATHS,
    Groups,
    assign,
    copies,
    misfit,
    own_variables,
    paths,
    shared_variables,
)
from hvdkit.engine import raise_everywhere, topology
from hvdkit.mesh.mesh import current_mesh
from hvdkit.optimizers.mixins import mesh_of


class Training:
    """A model and its optimizer, to be saved and restored.

    Args:
        model: a built model.
        optimizer: its optimizer, which is built here if it is not; or None.

    Raises:
        ValueError: the model has no variables yet.
    """

    def __init__(self, model: Any, optimizer: Any) -> None:
        if not all(layer.built for layer in model._flatten_layers()):
            raise ValueError(
                f"the model {model.name!r} has no variables yet, which a checkpoint could hold: "
                "give it an Input, or call it on a batch first."
            )
        if optimizer is not None and not optimizer.built:
            optimizer.build(model.trainable_variables)
        self.model = model
        self.optimizer = optimizer
        self.place = Place.here(mesh_of(optimizer) or current_mesh())

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
        own_groups = {**own_variables(self.model, self.optimizer), **(own_groups or {})}
        groups = shared_variables(self.model, self.optimizer)
        shared, part = None, None
        if self.place.divided:
            part = _contents(groups) if self.place.indices[0] == 0 else None
            groups = {}
        if topology.rank() == 0:
            shared = _contents(groups, shared_arrays)
        own = _contents(own_groups)
        own.values.update(own_values or {})
        return Snapshot(shared, own, about, self.place, part)

    def restore(self, manifest: Manifest) -> tuple[Contents, Contents]:
        """Set all variables to those of a checkpoint, on every rank.

        Returns:
            What the ranks have in common, and what belongs to this rank.

        Raises:
            CheckpointError: on every rank: a file is damaged, or belongs to another model.
        """
        groups = shared_variables(self.model, self.optimizer)
        own_groups = own_variables(self.model, self.optimizer)
        shared, part, own, problem = Contents(), Contents(), Contents(), None
        try:
            shared = manifest.read(SHARED)
            part = read_part(manifest, self.place, groups)
            own = self._own_contents(manifest, own_groups)
            source = str(manifest.path)
            problem = misfit(groups, part.arrays, part.values[PATHS], source) or misfit(
                own_groups, own.arrays, own.values[PATHS], source
            )
        except CheckpointError as error:
            problem = str(error)
        raise_everywhere(problem, CheckpointError)
        assign(groups, part.arrays)
        assign(own_groups, own.arrays)
        return shared, own

    def _own_contents(self, manifest: Manifest, groups: Groups) -> Contents:
        replica, replicas = self.place.indices[0], self.place.sizes[0]
        if manifest.mesh[0] == replicas:
            return read_own(manifest, self.place, groups, replica)
        return resplit(
            replica,
            manifest.mesh[0],
            lambda old: read_own(manifest, self.place, groups, old),
        )


def _contents(groups: Groups, more: dict[str, np.ndarray] | None = None) -> Contents:
    return Contents({**copies(groups), **(more or {})}, {PATHS: paths(groups), AXES: axes(groups)})
