"""Trainings that are stopped and go on, and those that are never stopped."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

import hvdkit as hvd

ROWS = 50  # uneven: with 3 ranks of 4 rows the last global batch has 2
BATCH = 4
EPOCHS = 2


class Stopped(Exception):
    """Stands for the end of the process, on all ranks."""


class StopAt(keras.callbacks.Callback):
    """Stop after a number of batches, before any checkpoint callback hears of it."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.left = batches

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.left -= 1
        if self.left == 0:
            raise Stopped

    def get_state(self) -> None:
        return None

    def set_state(self, state: Any) -> None:
        raise AssertionError(state)


@dataclass
class End:
    """What a training ended with, on one rank."""

    weights: list[np.ndarray]
    history: dict[str, list[float]]
    model: keras.Model


def shared_folder() -> Path:
    """A new folder that all ranks know."""
    return Path(hvd.broadcast_object(tempfile.mkdtemp(prefix="hvdkit-checkpoints-")))


def rows(count: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    x = rng.normal(size=(count, 6)).astype("float32")
    return x, (x @ rng.normal(size=(6, 2))).astype("float32")


def build(**options: Any) -> keras.Model:
    """A model with a state of every kind; other weights on every rank."""
    keras.utils.set_random_seed(11 + hvd.rank())
    model = keras.Sequential(
        [
            keras.layers.Input((6,)),
            keras.layers.Dense(8, activation="tanh"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(2),
        ]
    )
    optimizer = options.pop("optimizer", None) or keras.optimizers.Adam(0.01)
    settings = options.pop("distributed", {})
    model.compile(
        hvd.DistributedOptimizer(optimizer, **settings),
        "mse",
        metrics=[keras.metrics.MeanAbsoluteError(name="mae")],
        **options,
    )
    return model


def train(
    folder: Path,
    *,
    stop: int | None = None,
    model: keras.Model | None = None,
    data: Any = None,
    save_freq: Any = 2,
    callbacks: list[Any] | None = None,
    epochs: int = EPOCHS,
    **options: Any,
) -> End | None:
    """Train; None if it was stopped after `stop` batches."""
    model = model or build()
    x, y = rows()
    data = hvd.shard((x, y), BATCH, seed=3) if data is None else data
    backup = hvd.callbacks.BackupAndRestore(folder, save_freq=save_freq)
    stopping = [StopAt(stop)] if stop else []
    others = [hvd.callbacks.BroadcastGlobalVariablesCallback(0), *(callbacks or [])]
    try:
        history = model.fit(
            data,
            epochs=epochs,
            verbose=0,
            callbacks=[backup, *others, *stopping],
            **options,
        )
    except Stopped:
        # A process that ends takes its threads along.
        backup._saver._pool.shutdown()
        hvd.barrier()
        return None
    weights = [np.array(v) for v in [*model.variables, *model.optimizer.variables]]
    return End(weights, history.history, model)


@functools.cache
def never_stopped() -> End:
    """The end of the plain training that other checks compare with."""
    end = train(shared_folder())
    assert end is not None
    return end


def require_same_end(one: End, other: End) -> None:
    """Assert that two trainings ended alike, to the bit, on this rank."""
    for mine, theirs in zip(one.weights, other.weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert one.history == other.history, (one.history, other.history)
