"""The state of a training run, as it goes into a checkpoint and comes back."""

from __future__ import annotations

from typing import Any

import numpy as np

from hvdkit.checkpoint.arrays import Contents
from hvdkit.checkpoint.errors import CheckpointError
from hvdkit.checkpoint.resplit import resplit
from hvdkit.checkpoint.saver import Snapshot
from hvdkit.checkpoint.store import SHARED, Manifest, rank_file
from hvdkit.checkpoint.variables import (
    Groups,
    assign,
    copies,
    misfit,
    own_variables,
    paths,
    shared_variables,
)
from hvdkit.engine import raise_everywhere, topology

_PATHS = "paths"


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
        own = {**own_variables(self.model, self.optimizer), **(own_groups or {})}
        shared = None
        if topology.rank() == 0:
            groups = shared_variables(self.model, self.optimizer)
            shared = Contents(
                {**copies(groups), **(shared_arrays or {})},
                {_PATHS: paths(groups)},
            )
        values = {_PATHS: paths(own), **(own_values or {})}
        return Snapshot(shared, Contents(copies(own), values), about)

    def restore(self, manifest: Manifest) -> tuple[Contents, Contents]:
        """Set all variables to those of a checkpoint, on every rank.

        Returns:
            What the ranks have in common, and what belongs to this rank.

        Raises:
            CheckpointError: on every rank: a file is damaged, or belongs to another model.
        """
        groups = shared_variables(self.model, self.optimizer)
        own_groups = own_variables(self.model, self.optimizer)
        shared, own, problem = Contents(), Contents(), None
        try:
            shared, own = manifest.read(SHARED), _own_contents(manifest)
            source = str(manifest.path)
            problem = misfit(groups, shared.arrays, shared.values[_PATHS], source) or misfit(
                own_groups, own.arrays, own.values[_PATHS], source
            )
        except CheckpointError as error:
            problem = str(error)
        raise_everywhere(problem, CheckpointError)
        assign(groups, shared.arrays)
        assign(own_groups, own.arrays)
        return shared, own


def _own_contents(manifest: Manifest) -> Contents:
    rank, size = topology.rank(), topology.size()
    if manifest.ranks == size:
        return manifest.read(rank_file(rank))
    return resplit(rank, manifest.ranks, lambda old: manifest.read(rank_file(old)))
