"""Real models whose layers compute with more than variables, on several ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
from checks.checkpoints.runs import shared_folder

import hvdkit as hvd

L = keras.layers
START = hvd.callbacks.BroadcastGlobalVariablesCallback


def _efficient_net(seed: int) -> keras.Model:
    """As its weights come from a file: with means and variances of the colours."""
    keras.utils.set_random_seed(seed)
    model = keras.applications.EfficientNetB0(weights=None, input_shape=(32, 32, 3), classes=3)
    norm = next(layer for layer in model.layers if isinstance(layer, L.Normalization))
    norm.adapt_mean.assign(np.full(3, 10.0 * (seed + 1)))
    norm.adapt_variance.assign(np.full(3, 4.0 * (seed + 1)))
    norm.finalize_state()
    optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(0.01))
    model.compile(optimizer, "sparse_categorical_crossentropy")
    return model


def _fit(model: keras.Model, folder: Path, epochs: int, *callbacks: Any) -> None:
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (8 * hvd.size(), 32, 32, 3)).astype("float32")
    data = hvd.shard((images, rng.integers(0, 3, len(images))), 4, seed=1)
    backup = hvd.callbacks.BackupAndRestore(folder)
    check = hvd.callbacks.ConsistencyCheck(every_n_epochs=1)
    model.fit(data, epochs=epochs, verbose=0, callbacks=[*callbacks, backup, check])


def check_efficient_net() -> None:
    folder, model = shared_folder(), _efficient_net(hvd.rank())
    norm = next(layer for layer in model.layers if isinstance(layer, L.Normalization))
    _fit(model, folder, 1, START(0))
    assert float(np.asarray(norm.mean).ravel()[0]) == 10.0
    images = np.random.default_rng(1).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    outputs = hvd.allgather_object(model.predict(images, verbose=0))
    assert all(np.array_equal(outputs[0], other) for other in outputs)
    again = _efficient_net(5 + hvd.rank())
    _fit(again, folder, 1)  # restores, and trains nothing
    np.testing.assert_array_equal(again.predict(images, verbose=0), outputs[0])
