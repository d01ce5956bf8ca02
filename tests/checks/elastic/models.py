"""Models that have been trained a little, and their values."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from checks.reference import data, mlp

import hvdkit as hvd


def compiled(optimizer: Any) -> keras.Model:
    """A model with other weights on each rank."""
    model = mlp(hvd.rank())
    model.compile(optimizer=hvd.DistributedOptimizer(optimizer), loss="mse")
    return model


def trained(optimizer: Any) -> keras.Model:
    """The same, after 4 steps."""
    model = compiled(optimizer)
    train(model)
    return model


def train(model: keras.Model, callbacks: Any = None, **options: Any) -> Any:
    x, y = data(16, seed=hvd.rank())
    return model.fit(x, y, batch_size=4, verbose=0, callbacks=callbacks, **options)


def values(variables: Any) -> list[np.ndarray]:
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


def require_equal(these: list[np.ndarray], those: list[np.ndarray]) -> None:
    for this, that in zip(these, those, strict=True):
        np.testing.assert_array_equal(this, that)
