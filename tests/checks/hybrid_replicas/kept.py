"""Trainings on ranks of several devices that are saved, and gone on with."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import keras
import numpy as np
from checks.hybrid_replicas.comparing import BATCH, on_replicas, same_everywhere
from checks.marks import long
from checks.reference import data, mlp

import hvdkit as hvd


class Ending(keras.callbacks.Callback):
    """Ends a training in the middle of an epoch, as a signal does."""

    def on_train_batch_end(self, batch, logs=None):
        if self.model.optimizer.iterations.numpy() == 4:
            raise KeyboardInterrupt


def _model() -> keras.Model:
    return on_replicas(
        mlp,
        lambda: hvd.DistributedOptimizer(
            keras.optimizers.Adam(0.02, gradient_accumulation_steps=2, use_ema=True)
        ),
        metrics=["mae"],
    )


@long
def check_a_training_goes_on_to_the_bit():
    folder = Path(hvd.broadcast_object(os.environ["TMPDIR"])) / "hybrid"
    rows = data(45)

    def fit(model: keras.Model, *more: keras.callbacks.Callback) -> keras.callbacks.History:
        return model.fit(
            hvd.shard(rows, BATCH, seed=1),
            epochs=3,
            verbose=0,
            callbacks=[hvd.callbacks.BroadcastGlobalVariablesCallback(0), *more],
        )

    whole = _model()
    expected = fit(whole)
    backup = hvd.callbacks.BackupAndRestore(folder / "backup", save_freq=1)
    with contextlib.suppress(KeyboardInterrupt):
        fit(_model(), Ending(), backup)
    resumed = _model()
    best = folder / "best.keras"
    noted: list[list[np.ndarray]] = []
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: noted.append(resumed.get_weights())
    )
    history = fit(
        resumed,
        hvd.callbacks.BackupAndRestore(folder / "backup", save_freq=1),
        hvd.callbacks.ModelCheckpoint(best),
        note,
    )
    same_everywhere(resumed)
    for mine, theirs in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_allclose(history.history["loss"][-1], expected.history["loss"][-1], rtol=1e-6)
    # The file is one of plain Keras, of one device; averages come after it, at the end of `fit`.
    loaded = keras.models.load_model(best)
    for mine, theirs in zip(loaded.get_weights(), noted[-1], strict=True):
        np.testing.assert_array_equal(mine, theirs)
