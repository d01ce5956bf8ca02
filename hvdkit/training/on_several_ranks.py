"""Keras's own callbacks, and cached data, where every rank has them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from hvdkit.callbacks.metric_average import LogsOfAllRanks
from hvdkit.data.sharded import ShardedData
from hvdkit.engine import (
    RankMismatchError,
    allgather_object,
    logger,
    several_ranks,
    topology,
)
from hvdkit.keras_internals import is_of_keras
from hvdkit.optimizers.composition import mesh_of
from hvdkit.state.groups import ranks_of_optimizer
from hvdkit.state.reachable import leading_optimizer
from hvdkit.training.features import Call, Feature
from hvdkit.training.on_local_replicas import require_same_devices

_WRITES = {
    keras.callbacks.ModelCheckpoint: "filepath",
    keras.callbacks.CSVLogger: "filename",
    keras.callbacks.TensorBoard: "log_dir",
    keras.callbacks.BackupAndRestore: "backup_dir",
}
# A model that is divided over ranks is written by all of them together; these write no model, but
# for the weights that a TensorBoard with `embeddings_freq` saves.
_WRITES_NO_MODEL = (keras.callbacks.CSVLogger, keras.callbacks.TensorBoard)
_DECIDES = (keras.callbacks.EarlyStopping, keras.callbacks.ReduceLROnPlateau)


class _SameLogs(LogsOfAllRanks):
    """Before callbacks that would decide otherwise on each rank."""

    only_if_different = True


class _SavesAlong(keras.callbacks.Callback):
    """In the place of a TensorBoard whose weights all ranks of a divided model have to save."""

    def __init__(self, every: int) -> None:
        super().__init__()
        self._every = every

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Take part."""
        if epoch % self._every == 0:
            with tempfile.TemporaryDirectory() as folder:
                self.model.save_weights(os.path.join(folder, "thrown_away.weights.h5"))


@dataclass(frozen=True)
class _Own:
    """What a rank gives to `fit`.

    Attributes:
        files: class and path of each of Keras's callbacks that writes.
        deciding: classes of Keras's callbacks that decide by logs.
        restores: whether one of them gives the model the weights of its best epoch at the end.
        together: names of hvdkit's callbacks that talk to the other ranks at an epoch's end.
        validates: whether there is validation data.
        caches: files of `tf.data.Dataset.cache` that are not complete yet.
        devices: how many local devices it trains on.
    """

    files: list[tuple[str, str]]
    deciding: list[str]
    restores: bool
    together: list[str]
    validates: bool
    caches: list[str]
    devices: int


class AgreedCallbacks(Feature):
    """Keras's own callbacks do the right thing where several ranks have them.

    Of those that write to one path the first rank's stays. Those that decide by logs
    (`EarlyStopping`, `ReduceLROnPlateau`) get logs of all ranks, where the data is not sharded.
    """

    def before(self, call: Call) -> None:
        """Replace the callbacks.

        Raises:
            RankMismatchError: on every rank: a callback of hvdkit is missing on some, as one that
                restores weights is, or they train on different numbers of devices.
            ValueError: on every rank: several write one file of `tf.data.Dataset.cache`.
        """
        optimizer = leading_optimizer(call.model)
        process_set = ranks_of_optimizer(optimizer) if several_ranks() else None
        if process_set is None or not topology.in_process_set(process_set):
            return
        mesh = mesh_of(optimizer)
        if mesh is not None and mesh.is_model_parallel:
            _write_once_beside_shards(call)
        if topology.process_set_size(process_set) == 1:
            return
        own = _own(call)
        reports = allgather_object(own, name="hvdkit.callbacks", process_set=process_set)
        everyone = dict(zip(topology.process_set_ranks(process_set), reports, strict=True))
        require_same_devices({rank: own.devices for rank, own in everyone.items()})
        _require_together(everyone)
        _require_own_caches(everyone)
        if mesh is None or not mesh.is_model_parallel:
            _write_once(call, everyone)
        data, validation = call.arguments["x"], call.arguments["validation_data"]
        sharded = isinstance(data, ShardedData) and (
            not own.validates or isinstance(validation, ShardedData)
        )
        _decide_alike(call, everyone, sharded=sharded)


def _own(call: Call) -> _Own:
    """What this rank gives to a `fit`."""
    given = call.callbacks
    data, validation = call.arguments["x"], call.arguments["validation_data"]
    deciding = [c for c in given if isinstance(c, _DECIDES) and not isinstance(c, LogsOfAllRanks)]
    return _Own(
        files=[file for callback in given if (file := _file_of(callback))],
        deciding=[type(callback).__name__ for callback in deciding],
        restores=any(getattr(callback, "restore_best_weights", False) for callback in deciding),
        together=[_public_name(c) for c in given if _talks_to_all(c)],
        validates=validation is not None or bool(call.arguments["validation_split"]),
        caches=[path for some in (data, validation) for path in _incomplete_caches(some)],
        devices=call.model.distribute_strategy.num_replicas_in_sync,
    )


def _talks_to_all(callback: Any) -> bool:
    return isinstance(callback, LogsOfAllRanks) or getattr(callback, "measures_steps", False)


def _public_name(callback: Any) -> str:
    return getattr(callback, "public_name", f"hvd.callbacks.{type(callback).__name__}")


def _file_of(callback: Any) -> tuple[str, str] | None:
    for cls, attribute in _WRITES.items():
        if isinstance(callback, cls) and not isinstance(callback, LogsOfAllRanks):
            path = str(getattr(callback, attribute))
            return type(callback).__name__, path if "://" in path else os.path.realpath(path)
    return None


def _write_once(call: Call, everyone: dict[int, _Own]) -> None:
    """Leave out what another rank writes already."""
    given, kept = call.callbacks, []
    for callback in given:
        file = _file_of(callback)
        writers = [rank for rank, own in everyone.items() if file in own.files]
        plain = is_of_keras(type(callback))
        restores = isinstance(callback, keras.callbacks.BackupAndRestore)
        if len(writers) < 2 or not plain or restores or topology.rank() == writers[0]:
            kept.append(callback)
        if file and len(writers) > 1 and (not plain or restores):
            _say(
                writers,
                f"{file[0]} writes to {file[1]} on the ranks {_listed(writers)} at once: "
                + (
                    "use hvd.callbacks.BackupAndRestore."
                    if restores
                    else "give it to fit on rank 0 only, or a path to each rank."
                ),
            )
    if len(kept) < len(given):
        call.callbacks = kept


def _write_once_beside_shards(call: Call) -> None:
    """Leave out what another rank writes already, of what writes no model."""
    own = {
        id(callback): file
        for callback in call.callbacks
        if isinstance(callback, _WRITES_NO_MODEL) and is_of_keras(type(callback))
        if (file := _file_of(callback))
    }
    reports = allgather_object(list(own.values()), name="hvdkit.callbacks_that_write")
    kept = []
    for callback in call.callbacks:
        file = own.get(id(callback))
        writers = [rank for rank, files in enumerate(reports) if file in files]
        if len(writers) < 2 or topology.rank() == writers[0]:
            kept.append(callback)
        elif every := getattr(callback, "embeddings_freq", 0):
            kept.append(_SavesAlong(every))
    if kept != call.callbacks:
        call.callbacks = kept


def _decide_alike(call: Call, everyone: dict[int, _Own], *, sharded: bool) -> None:
    """Give all ranks the same logs to decide by, where all decide.

    Raises:
        RankMismatchError: on every rank: only some of them would restore weights.
    """
    having = [rank for rank, own in everyone.items() if own.deciding]
    restoring = [rank for rank, own in everyone.items() if own.restores]
    validating = [rank for rank, own in everyone.items() if own.validates]
    if not having:
        return
    if len(having) < len(everyone):
        what, where = "a callback", having
    elif len(restoring) not in (0, len(everyone)):
        what, where = "restore_best_weights=True", restoring
    elif not sharded and len(validating) not in (0, len(everyone)):
        what, where = "validation data", validating
    else:
        if not sharded:
            call.add_callback(_SameLogs(), first=True)
        return
    remedy = "Give every rank the same callbacks and validation data, best from hvd.shard."
    if restoring:
        raise RankMismatchError(
            "EarlyStopping(restore_best_weights=True) would leave the ranks with weights of "
            f"different epochs, since only rank {_listed(where)} has {what}. {remedy}"
        )
    _say(
        having,
        f"{everyone[having[0]].deciding[0]} may decide otherwise on each rank, since only rank "
        f"{_listed(where)} has {what}: where one stops all stop, and a learning rate is reduced "
        f"on its rank only. {remedy}",
    )


def _require_together(everyone: dict[int, _Own]) -> None:
    for name in dict.fromkeys(name for own in everyone.values() for name in own.together):
        missing = [rank for rank, own in everyone.items() if name not in own.together]
        if missing:
            having = [rank for rank in everyone if rank not in missing]
            raise RankMismatchError(
                f"{name} is given to fit on rank {_listed(having)}, but not on rank "
                f"{_listed(missing)}. It talks to all ranks, and writes and prints on rank 0 only: "
                "give it to every rank."
            )


def _require_own_caches(everyone: dict[int, _Own]) -> None:
    for path in dict.fromkeys(path for own in everyone.values() for path in own.caches):
        writing = [rank for rank, own in everyone.items() if path in own.caches]
        if len(writing) > 1:
            raise ValueError(
                f"the ranks {_listed(writing)} would write the cache {path} at once, which "
                "TensorFlow refuses or spoils. Give each rank a file of its own, as in "
                '.cache(f"cache-{hvd.rank()}"), or read the data once in one process first.'
            )


def _incomplete_caches(data: Any) -> Iterator[str]:
    if isinstance(data, ShardedData):
        data = data.source
        while not isinstance(data, tf.data.Dataset) and hasattr(data, "source"):
            data = data.source
    if not isinstance(data, tf.data.Dataset):
        return
    filename = getattr(data, "_filename", None) if "Cache" in type(data).__name__ else None
    path = b"" if filename is None else tf.get_static_value(tf.convert_to_tensor(filename))
    if path and not os.path.exists(path + b".index"):
        yield os.path.realpath(path.decode())
    for source in data._inputs():
        yield from _incomplete_caches(source)


def _say(ranks: list[int], text: str) -> None:
    if topology.rank() == ranks[0]:
        logger.warning("hvdkit: %s", text)


def _listed(ranks: list[int]) -> str:
    return ", ".join(map(str, ranks))
