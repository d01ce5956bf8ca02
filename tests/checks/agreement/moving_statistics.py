"""Moving statistics are averaged before they are used and saved."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import keras
import numpy as np
from checks.agreement.at_start import START, fit
from checks.marks import long
from checks.reference import data, same_on_all_ranks

import hvdkit as hvd


def _model(layer: keras.layers.Layer, optimizer: Any = None) -> keras.Model:
    keras.utils.set_random_seed(0)
    frozen = keras.layers.Dense(6, trainable=False)
    model = keras.Sequential([keras.layers.Input((6,)), frozen, layer, keras.layers.Dense(2)])
    optimizer = optimizer or hvd.DistributedOptimizer(keras.optimizers.SGD(0.01))
    model.compile(optimizer=optimizer, loss="mse")
    return model


class _Statistics(keras.callbacks.Callback):
    """The moving mean at the end of an epoch's steps, when validation begins, and at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, np.ndarray] = {}

    def _note(self, when: str) -> None:
        self.seen[when] = self.model.layers[1].moving_mean.numpy()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self._note("steps")

    def on_test_begin(self, logs: dict | None = None) -> None:
        self._note("validation")

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._note("end")


@long
def check_validation_uses_the_average() -> None:
    watch = _Statistics()
    model = _model(keras.layers.BatchNormalization())
    frozen = model.layers[0].kernel.numpy()
    fit(model, START(0), watch, validation_data=data(8))
    own = hvd.allgather_object(watch.seen["steps"])
    assert not np.array_equal(own[0], own[1]), "the ranks have seen other rows"
    for when in ("validation", "end"):
        np.testing.assert_allclose(watch.seen[when], np.mean(own, axis=0), rtol=1e-5, atol=1e-6)
    same_on_all_ranks(model)
    np.testing.assert_array_equal(model.layers[0].kernel.numpy(), frozen)


@long
def check_a_rank_may_validate_alone() -> None:
    model = _model(keras.layers.BatchNormalization())
    validation = data(8) if hvd.rank() == 0 else None
    fit(model, START(0), validation_data=validation, epochs=2)
    if hvd.rank() == 0:
        model.evaluate(*data(8), verbose=0)
    same_on_all_ranks(model)


@long
def check_checkpoints_between_epochs_hold_the_average() -> None:
    watch = _Statistics()
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "{batch}.keras")
        save = hvd.callbacks.ModelCheckpoint(file, save_freq=2)
        fit(_model(keras.layers.BatchNormalization()), START(0), save, watch)
        means = [
            keras.models.load_model(os.path.join(folder, name)).layers[1].moving_mean.numpy()
            for name in sorted(os.listdir(folder))
        ]
    assert len(means) == (2 if hvd.rank() == 0 else 0)
    # The last checkpoint is written after the last step.
    own = hvd.allgather_object(watch.seen["steps"])
    if means:
        np.testing.assert_array_equal(means[1], own[0])
    assert all(np.array_equal(own[0], other) for other in own)


def check_synchronized_statistics_stay() -> None:
    watch = _Statistics()
    fit(_model(hvd.SyncBatchNormalization()), START(0), watch)
    np.testing.assert_array_equal(watch.seen["steps"], watch.seen["end"])
    own = hvd.allgather_object(watch.seen["end"])
    assert all(np.array_equal(own[0], other) for other in own)
