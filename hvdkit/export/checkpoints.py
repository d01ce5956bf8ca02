"""The weights of a checkpoint, in an undivided model on one process, whatever ranks wrote it."""

from __future__ import annotations

from pathlib import Path

import keras

from hvdkit.checkpoint.store import MANIFEST, Manifest, Store, verify
from hvdkit.checkpoint.training_state import TrainingState
from hvdkit.engine import init, is_initialized
from hvdkit.errors import CheckpointError


def is_checkpoint(path: Path) -> bool:
    """Whether a path is a checkpoint, or a folder of some."""
    return path.is_dir() and ((path / MANIFEST).is_file() or bool(Store(path).checkpoints()))


def restore_weights(path: Path, model: keras.Model) -> Manifest:
    """Give a model the weights, and what its layers keep, of a checkpoint.

    The parts of a divided model are put together: variables are found by their names, so the
    model has to be made by the code that made it for the training.

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
    return manifest
