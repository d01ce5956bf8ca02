"""Checkpoints for training loops of one's own."""

from __future__ import annotations

import os
from typing import Any

from hvdkit.checkpoint.newest import newest_for_all
from hvdkit.checkpoint.saver import Saver
from hvdkit.checkpoint.store import Store
from hvdkit.checkpoint.training_state import TrainingState
from hvdkit.data.sharded import ShardedData
from hvdkit.engine import require_initialized


def save(
    directory: str | os.PathLike[str],
    model: Any,
    optimizer: Any = None,
    *,
    values: dict[str, Any] | None = None,
    data: ShardedData | None = None,
    batch: int = 0,
    keep: int = 3,
) -> None:
    """Write a checkpoint and wait until it is whole. Every rank calls it.

    Args:
        directory: the folder of the checkpoints, which all hosts share.
        model: a built model.
        optimizer: its optimizer, or a list, tuple or dictionary of several. Those that the model
            holds (`model.optimizer`, and its attributes) are saved in any case.
        values: more to be kept, such as the number of the epoch: what JSON can hold.
        data: the data that the loop reads, from `hvd.shard`.
        batch: how many batches of the current pass over `data` are done.
        keep: how many checkpoints to keep; older ones are removed.

    Raises:
        CheckpointError: on every rank: it can't be written. The older ones are whole.

    Example:
        >>> for batch, (x, y, weights) in enumerate(data):
        ...     train_step(x, y, weights)
        ...     if batch % 100 == 99:
        ...         hvd.checkpoint.save("run1", model, optimizer, data=data, batch=batch + 1)
    """
    require_initialized("hvd.checkpoint.save()")
    training = TrainingState(model, optimizer)
    about: dict[str, Any] = {"values": values or {}}
    if data is not None:
        about["data"] = data.position(batch)
    saver = Saver(directory, keep)
    try:
        saver.save(training.snapshot(about))
    finally:
        saver.close()


def restore(
    directory: str | os.PathLike[str],
    model: Any,
    optimizer: Any = None,
    *,
    data: ShardedData | None = None,
) -> dict[str, Any] | None:
    """Go back to the newest whole checkpoint. Every rank calls it.

    The number of ranks may be another than when it was written. Call it before a `tf.function` of
    your own has been traced: graphs hold the vocabularies and constants of layers.

    Args:
        directory: the folder of the checkpoints.
        model: a built model, as when it was written.
        optimizer: as in `save`. One that is not built is built with the variables of the model that
            it trained.
        data: the data that the loop reads, from `hvd.shard`; its next pass starts where the
            checkpoint was written.

    Returns:
        The `values` that were given to `save`; None where there is no checkpoint yet.

    Raises:
        CheckpointError: on every rank: there are checkpoints but none is whole, or it belongs to
            another model.
    """
    require_initialized("hvd.checkpoint.restore()")
    manifest = newest_for_all(Store(directory))
    if manifest is None:
        return None
    training = TrainingState(model, optimizer)
    training.restore(manifest)
    about = manifest.about
    if data is not None and "data" in about:
        data.start_at(about["data"])
    return dict(about.get("values", {}))  # BackupAndRestore saves none


def latest(directory: str | os.PathLike[str]) -> str | None:
    """The folder of the newest whole checkpoint, or None. One process can call it.

    Args:
        directory: the folder of the checkpoints.
    """
    manifest, _ = Store(directory).newest_whole()
    return None if manifest is None else str(manifest.path)
