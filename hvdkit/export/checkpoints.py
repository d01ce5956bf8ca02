"""The weights of a checkpoint, in an undivided model on one process, whatever ranks wrote it."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np

from hvdkit.checkpoint.store import MANIFEST, SHARED, Manifest, Store, rank_file, verify
from hvdkit.checkpoint.training_state import TrainingState
from hvdkit.checkpoint.variables import DIFFERING, PATHS, TRAINABLE, groups_of
from hvdkit.engine import init, is_initialized
from hvdkit.errors import CheckpointError
from hvdkit.state.reachable import optimizers_of


def is_checkpoint(path: Path) -> bool:
    """Whether a path is a checkpoint, or a folder of some."""
    return path.is_dir() and ((path / MANIFEST).is_file() or bool(Store(path).checkpoints()))


def restore_weights(path: Path, model: keras.Model) -> Manifest:
    """Give a model the weights, and what its layers keep, of a checkpoint.

    The parts of a divided model are put together: their variables are found by their names, so
    that model has to be made by the code that made it for the training.

    Args:
        path: a checkpoint, or a folder of which the newest whole one is taken.
        model: the model, undivided and built.

    Returns:
        What checkpoint it was.

    Raises:
        CheckpointError: none is whole, or it belongs to another model.
        InstallationError: Horovod is missing, which reads checkpoints.
    """
    if (path / MANIFEST).is_file():
        manifest: Manifest | None = verify(path)
        problems: list[str] = []
    else:
        manifest, problems = Store(path).newest_whole()
    if manifest is None:
        raise CheckpointError(f"no checkpoint in {path} is whole: {' '.join(problems)}")
    if not is_initialized():
        init()
    TrainingState(model).restore(manifest)
    _assign_means(manifest, model)
    return manifest


def _assign_means(manifest: Manifest, model: keras.Model) -> None:
    """Where each rank had weights of its own, between two meetings or in gossip: their mean.

    Raises:
        CheckpointError: the ranks of a divided model did.
    """
    files = [manifest.read(rank_file(0))]
    names = files[0].values[PATHS].get(DIFFERING, [])
    if not names:
        return
    if manifest.mesh[1:] != (1, 1):
        raise CheckpointError(
            f"in {manifest.path} the ranks of a divided model have weights of their own: go on "
            "with the training until they meet, and export that checkpoint."
        )
    files += [manifest.read(rank_file(rank)) for rank in range(1, manifest.ranks)]
    # In the order of the model, not by name: here its layers may be numbered otherwise.
    stored = manifest.read(SHARED).values[PATHS][TRAINABLE]
    rows = groups_of(model, optimizers_of(model))[0][TRAINABLE]
    pairs = zip(stored, rows, strict=True)
    for position, name in enumerate(names):
        row = next(row for path, row in pairs if path == name)
        values = [file.arrays[f"{DIFFERING}/{position}"].astype(np.float64) for file in files]
        row.variable.assign(np.mean(values, axis=0))
