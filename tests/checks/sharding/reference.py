"""Data with an uneven last batch, a classifier, and one process to compare the ranks with."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.reference import BATCH, data, same_on_all_ranks

import hvdkit as hvd


def number_of_rows(extra: int = 1) -> int:
    """A number of rows whose last global batch has `extra` rows: fewer than ranks if possible."""
    return 3 * hvd.size() * BATCH + extra


def labelled_rows(rows: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = data(rows)
    return x, (y.argmax(1) + (x[:, 0] > 0.5)).astype("int32")


def global_batches(x: Any, y: Any, *more: Any) -> tf.data.Dataset:
    """What one process reads: global batches in order."""
    return tf.data.Dataset.from_tensor_slices((x, y, *more)).batch(hvd.size() * BATCH)


class Batches(keras.utils.PyDataset):
    """Arrays as batches in order, the last with fewer rows."""

    def __init__(self, x: Any, y: Any, **options: Any) -> None:
        super().__init__(**options)
        self.x, self.y = x, y

    def __len__(self) -> int:
        return -(-len(self.x) // BATCH)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        rows = slice(index * BATCH, (index + 1) * BATCH)
        return self.x[rows], self.y[rows]


def classifier(seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.layers.Input((6,)),
            keras.layers.Dense(8, activation="tanh", activity_regularizer="l2"),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )


def compiled(model: keras.Model, optimizer: Any, **options: Any) -> keras.Model:
    # Metrics by name, and slots, would be made in the step, which Keras then traces twice.
    model.compile(
        optimizer=optimizer,
        loss="sparse_categorical_crossentropy",
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy(name="weighted")],
        **options,
    )
    return model


def compare(
    single: Any,
    sharded: Any,
    *,
    epochs: int = 2,
    options: dict[str, Any] | None = None,
    fit: dict[str, Any] | None = None,
    validation: tuple[Any, Any] | None = None,
) -> None:
    """Train one process on `single` and the ranks on `sharded`; compare weights and history."""
    fit = {"epochs": epochs, "verbose": 0, **(fit or {})}
    options = options or {}
    reference = compiled(classifier(0), keras.optimizers.Adam(0.02), **options)
    reference.optimizer.build(reference.trainable_variables)
    start = reference.get_weights()
    plain = {} if validation is None else {"validation_data": validation[0]}
    expected = reference.fit(single, **fit, **plain).history

    model = classifier(50 + hvd.rank())
    if hvd.rank() == 0:
        model.set_weights(start)
    compiled(model, hvd.DistributedOptimizer(keras.optimizers.Adam(0.02)), **options)
    ours = {} if validation is None else {"validation_data": validation[1]}
    history = model.fit(
        sharded,
        **fit,
        **ours,
        callbacks=[hvd.callbacks.BroadcastGlobalVariablesCallback(0)],
    ).history
    same_on_all_ranks(model)
    for mine, theirs in zip(model.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4)
    assert set(history) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-4, atol=1e-5, err_msg=name)
