"""One training on two ranks of two local devices, and the same in one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.reference import data, mlp

import hvdkit as hvd

BATCH = 4  # of a device, so 16 rows in a step


def mirrored() -> tf.distribute.MirroredStrategy:
    """The strategy of the two local devices."""
    strategy = hvd.strategy("mirrored")
    assert strategy.num_replicas_in_sync == 2
    return strategy


def on_replicas(
    build: Callable[[int], keras.Model], optimizer: Callable[[], Any], **options: Any
) -> keras.Model:
    """A model on two devices, whose weights are others on each rank; with rank 0's seed 0."""
    with mirrored().scope():
        model = build(100 * hvd.rank())
        model.compile(optimizer=optimizer(), **{"loss": "mse", **options})
    return model


def same_everywhere(model: keras.Model) -> None:
    """Assert that all devices of all ranks hold the same weights, to the bit."""
    copies = [
        [copy.numpy() for copy in variable.value.values] for variable in model.trainable_variables
    ]
    assert all(len(each) == 2 for each in copies), "the model is not on two devices"
    first = hvd.broadcast_object([each[0] for each in copies])
    for each, expected in zip(copies, first, strict=True):
        for copy in each:
            np.testing.assert_array_equal(copy, expected)


def same_weights(model: keras.Model, expected: keras.Model, **tolerance: Any) -> None:
    """Assert that two models have the same weights but for rounding."""
    for mine, theirs in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, **{"rtol": 2e-4, "atol": 2e-5, **tolerance})


def same_logs(mine: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Assert that two trainings have had the same logs."""
    assert set(mine) == set(expected), (set(mine), set(expected))
    for name, values in expected.items():
        np.testing.assert_allclose(mine[name], values, rtol=2e-4, atol=1e-6, err_msg=name)


def compare(
    plain: Callable[[], Any],
    *,
    build: Callable[[int], keras.Model] = mlp,
    arrays: tuple[np.ndarray, ...] | None = None,
    epochs: int = 2,
    distributed: Callable[[], Any] | None = None,
    fit: Mapping[str, Any] | None = None,
    untouched: bool = False,
    **options: Any,
) -> keras.Model:
    """Train on two ranks of two devices, and in one process on the same rows, and compare.

    Args:
        plain: makes the optimizer of one process.
        build: makes the model, from a seed.
        arrays: x, y, and weights; 33 rows by default, of which the last step has one.
        epochs: of both.
        distributed: makes the optimizer of the ranks; by default from `plain`.
        fit: more arguments of both `fit`s.
        untouched: the weights may stay as they are.
        **options: of both `compile`s.
    """
    arrays = data(33) if arrays is None else arrays
    reference = build(0)
    start = reference.get_weights()
    reference.compile(optimizer=plain(), **{"loss": "mse", **options})
    expected = reference.fit(
        *arrays[:2],
        sample_weight=arrays[2] if len(arrays) > 2 else None,
        batch_size=4 * BATCH,
        shuffle=False,
        epochs=epochs,
        verbose=0,
        **(fit or {}),
    )
    model = on_replicas(
        build, distributed or (lambda: hvd.DistributedOptimizer(plain())), **options
    )
    history = model.fit(
        hvd.shard(arrays, BATCH, shuffle=False),
        epochs=epochs,
        verbose=0,
        callbacks=[hvd.callbacks.BroadcastGlobalVariablesCallback(0)],
        **(fit or {}),
    )
    same_everywhere(model)
    same_weights(model, reference)
    same_logs(history.history, expected.history)
    moved = sum(
        float(np.abs(a - b).sum()) for a, b in zip(reference.get_weights(), start, strict=True)
    )
    assert untouched or moved > 1e-3, "the reference did not learn, so this proves nothing"
    return model
