"""A pipeline that is stopped goes on where it was: each rank's part of the model comes back."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

import keras
import numpy as np
from checks.pipeline_parallel.comparison import pipeline_model, require_close
from checks.pipeline_parallel.files import build, data

import hvdkit as hvd
from hvdkit.parallel import PipelineModel


def compiled(seed_shift: float) -> PipelineModel:
    model = pipeline_model(build, micro_batches=3)
    for variable in model.trainable_variables:
        variable.assign_add(np.full(variable.shape, seed_shift, "float32"))
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


def check_backup_and_restore() -> None:
    x, y = data()
    folder = Path(hvd.broadcast_object(tempfile.mkdtemp()))
    options = {"batch_size": 12, "verbose": 0, "shuffle": False}
    whole = compiled(0.0)
    whole.fit(x, y, epochs=4, **options)
    backup = [hvd.callbacks.BackupAndRestore(folder)]
    compiled(0.0).fit(x, y, epochs=2, callbacks=backup, **options)
    resumed = compiled(1.0)
    backup = [hvd.callbacks.BackupAndRestore(folder)]
    history = resumed.fit(x, y, epochs=4, callbacks=backup, **options)
    assert history.epoch == [0, 1, 2, 3] or history.epoch == [2, 3]
    for mine, theirs in zip(
        resumed.gather_weights() or [], whole.gather_weights() or [], strict=True
    ):
        require_close("weights", mine, theirs)


def check_an_epoch_is_resumed_in_its_middle() -> None:
    """Metrics go on where they were; they are built without calling the model."""
    x, y = data()
    folder = Path(hvd.broadcast_object(tempfile.mkdtemp()))

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                raise KeyboardInterrupt

    def fit(*callbacks: keras.callbacks.Callback):
        model = pipeline_model(build, micro_batches=2)
        model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
        backup = hvd.callbacks.BackupAndRestore(folder, save_freq=2)
        rows = hvd.shard((x, y), batch_size=4, shuffle=False)
        history = model.fit(rows, epochs=2, verbose=0, callbacks=[*callbacks, backup])
        return model, history.history

    with contextlib.suppress(KeyboardInterrupt):
        fit(Stop())
    resumed, found = fit()
    shutil.rmtree(folder, ignore_errors=True)
    hvd.barrier()
    whole, expected = fit()
    for name, values in expected.items():
        require_close(name, found[name], values)
    for mine, theirs in zip(
        resumed.gather_weights() or [], whole.gather_weights() or [], strict=True
    ):
        require_close("weights", mine, theirs)
