"""A pipeline that is stopped goes on where it was: each rank's part of the model comes back."""

from __future__ import annotations

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
