"""Keras's own callbacks, and cached data, on several ranks."""

from __future__ import annotations

import os
import shutil
from typing import Any

import keras
import pytest
import tensorflow as tf
from checks.callbacks.of_hvdkit import fit, shared_folder
from checks.hearing import heard
from checks.marks import long
from checks.reference import data, mlp, same_on_all_ranks

import hvdkit as hvd

O = keras.optimizers  # noqa: E741


@long
def check_keras_callbacks_that_write_one_file_do_it_once() -> None:
    folder = shared_folder()
    model = mlp(0)
    model.compile(optimizer=hvd.DistributedOptimizer("sgd"), loss="mse")
    own = keras.callbacks.CSVLogger(str(folder / f"own-{hvd.rank()}.csv"))
    callbacks = [
        keras.callbacks.CSVLogger(str(folder / "log.csv"), append=True),
        own,
        keras.callbacks.ModelCheckpoint(str(folder / "{epoch}.weights.h5"), save_weights_only=True),
    ]
    with heard() as texts:
        fit(model, callbacks, epochs=2)
        fit(model, callbacks[:1], epochs=1)
    hvd.barrier()
    assert not texts
    lines = (folder / "log.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["epoch", "0", "1", "0"], lines
    assert all((folder / f"own-{rank}.csv").exists() for rank in range(hvd.size()))
    assert {"1.weights.h5", "2.weights.h5"} <= set(os.listdir(folder))
    model.load_weights(folder / "2.weights.h5")
    hvd.barrier()
    if hvd.rank() == 0:
        shutil.rmtree(folder)


class _OwnLogger(keras.callbacks.CSVLogger):
    pass


@long
def check_callbacks_that_can_not_write_once_are_said() -> None:
    folder = shared_folder()
    model = mlp(0)
    model.compile(optimizer=hvd.DistributedOptimizer("sgd"), loss="mse")
    with heard() as texts:
        fit(model, [_OwnLogger(str(folder / "log.csv"))], epochs=1)
        if hvd.rank() == 0:
            alone = keras.callbacks.CSVLogger(str(folder / "alone.csv"))
        fit(model, [alone] if hvd.rank() == 0 else [], epochs=1)
    assert len(texts) == (hvd.rank() == 0), texts
    assert all("_OwnLogger" in text and "0, 1" in text for text in texts)
    hvd.barrier()
    if hvd.rank() == 0:
        assert (folder / "alone.csv").exists()
        shutil.rmtree(folder)


@long
def check_keras_early_stopping_stops_all_ranks() -> None:
    """Each rank has other rows, so its own loss would stop it at an epoch of its own."""
    model = mlp(0)
    model.compile(optimizer=hvd.DistributedOptimizer(O.SGD(0.3)), loss="mse", metrics=["mae"])
    callbacks = [
        keras.callbacks.EarlyStopping(monitor="mae", min_delta=0.1 + 0.3 * hvd.rank(), patience=0),
        keras.callbacks.ReduceLROnPlateau(monitor="mae", min_delta=10, patience=1),
    ]
    callbacks[0].min_delta = -0.1
    history = fit(model, callbacks, epochs=8).history
    everyone = hvd.allgather_object(repr({k: history[k] for k in ("mae", "learning_rate")}))
    assert len(set(everyone)) == 1, everyone
    assert history["learning_rate"][-1] < 0.3


class _StopsAfter(keras.callbacks.Callback):
    """As a clock of one's own, or a file that a rank looks for."""

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self._epochs = epochs

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if epoch + 1 == self._epochs:
            self.model.stop_training = True


def check_a_callback_of_some_ranks_stops_all_with_an_epoch() -> None:
    folder = shared_folder()
    model = mlp(0)
    model.compile(optimizer=hvd.DistributedOptimizer("sgd"), loss="mse")
    last = hvd.size() - 1
    backup = hvd.callbacks.BackupAndRestore(folder)
    with heard() as texts:
        callbacks = [backup, _StopsAfter(2 if hvd.rank() == last else 4)]
        assert len(fit(model, callbacks, epochs=6).epoch) == 2
        assert len(fit(model, [_StopsAfter(1)], epochs=6).epoch) == 1
    said = [text for text in texts if "the training ends" in text]
    assert len(said) == (hvd.rank() == 0), texts
    assert all(f"after epoch 2, as callbacks of rank {last} stop it" in text for text in said)
    hvd.barrier()
    again = mlp(0)
    again.compile(optimizer=hvd.DistributedOptimizer("sgd"), loss="mse")
    fit(again, [hvd.callbacks.BackupAndRestore(folder)], epochs=6)
    assert again.optimizer.iterations == model.optimizer.iterations * 2 // 3, "it has finished"
    hvd.barrier()
    if hvd.rank() == 0:
        shutil.rmtree(folder)


@long
def check_callbacks_of_hvdkit_on_some_ranks_are_an_error() -> None:
    model = mlp(0)
    model.compile(optimizer=hvd.DistributedOptimizer("sgd"), loss="mse")
    callbacks = [hvd.callbacks.EarlyStopping(monitor="loss")] if hvd.rank() == 0 else []
    with pytest.raises(hvd.RankMismatchError, match="EarlyStopping is given to fit on rank 0,"):
        fit(model, callbacks)
    some = {"validation_data": data(4)} if hvd.rank() == 0 else {}
    with pytest.raises(hvd.RankMismatchError, match="'val_loss' exists on rank 0"):
        fit(model, [hvd.callbacks.EarlyStopping(monitor="loss")], **some)


@long
def check_best_weights_of_some_ranks_are_an_error() -> None:
    """With data of their own, and with data that all logs are of."""
    model = mlp(0)
    model.compile(optimizer=hvd.DistributedOptimizer("sgd"), loss="mse")
    best = keras.callbacks.EarlyStopping(monitor="loss", restore_best_weights=True)
    plain = keras.callbacks.EarlyStopping(monitor="loss")
    before = keras.callbacks.ReduceLROnPlateau(monitor="loss")  # it is not the one to be named
    is_first = hvd.rank() == 0
    shard = hvd.shard(data(16), 4)
    for given in (shard, tf.data.Dataset.from_tensor_slices(data(16)).batch(4)):
        with pytest.raises(
            hvd.RankMismatchError, match=r"^Early.* epochs, since only rank 0 has a callback"
        ):
            model.fit(given, verbose=0, callbacks=[before, best] if is_first else [])
        with pytest.raises(hvd.RankMismatchError, match=r"rank 0 has restore_best_weights=True"):
            model.fit(given, verbose=0, callbacks=[best if is_first else plain])
        with heard() as texts:
            model.fit(given, verbose=0, callbacks=[plain] if is_first else [])
        said = [text for text in texts if "where one stops all stop" in text]
        assert len(said) == is_first, texts
    model.fit(shard, verbose=0, callbacks=[best])
    same_on_all_ranks(model)


@long
def check_one_cache_file_for_several_ranks_is_an_error() -> None:
    folder = shared_folder()
    model = mlp(0)
    model.compile(optimizer=hvd.DistributedOptimizer("sgd"), loss="mse")

    def cached(name: str) -> tf.data.Dataset:
        rows = tf.data.Dataset.from_tensor_slices(data(16))
        return rows.cache(str(folder / name)).batch(4)

    shared = [cached("one"), hvd.shard(cached("one"), 4)]
    for given in shared:
        with pytest.raises(ValueError, match="would write the cache"):
            model.fit(given, verbose=0)
    model.fit(cached(f"own-{hvd.rank()}"), verbose=0)
    hvd.barrier()
    if hvd.rank() == 0:
        list(cached("one"))
    hvd.barrier()
    model.fit(hvd.shard(cached("one"), 4), verbose=0)  # complete, so it is only read
    hvd.barrier()
    if hvd.rank() == 0:
        shutil.rmtree(folder)
