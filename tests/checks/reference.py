"""Models, data and the one-process training that ranks are compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import hvdkit as hvd

BATCH = 4
STEPS = 4


def data(rows: int, columns: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of floats and a number for each that can be learnt."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, columns)).astype("float32")
    y = (x @ rng.normal(size=(columns, 2))).astype("float32") + 0.3
    return x, y


def mlp(seed: int, **layer: Any) -> keras.Model:
    """A small model with weights from a seed."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.layers.Input((6,)),
            keras.layers.Dense(8, activation="tanh", **layer),
            keras.layers.Dense(2),
        ]
    )


def same_on_all_ranks(model: keras.Model) -> None:
    """Assert that every rank holds the same weights, to the bit."""
    weights = [np.asarray(w) for w in model.get_weights()]
    for other in hvd.allgather_object(weights):
        for mine, theirs in zip(weights, other, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def my_rows(array: np.ndarray, step: int, batch: int = BATCH) -> np.ndarray:
    """This rank's rows of a step: a block of the global batch."""
    start = (step * hvd.size() + hvd.rank()) * batch
    return array[start : start + batch]


def compare_with_one_process(
    build: Callable[[int], keras.Model],
    plain: Callable[[], Any],
    distributed: Callable[[], Any],
    *,
    rows: tuple[np.ndarray, np.ndarray] | None = None,
    loss: Any = "mse",
    steps: int = STEPS,
    rtol: float = 2e-4,
    atol: float = 2e-5,
    compile_options: dict[str, Any] | None = None,
    untouched: bool = False,
) -> keras.Model:
    """Train over the ranks and in one process, on the same rows, and compare the weights.

    Every rank starts from other weights and sees other rows; without communication the result
    can't be right. The plain model sees the rows of all ranks in one batch. Layers and variables
    have other names on rank 0, which has made more of them.
    """
    size = hvd.size()
    x, y = rows or data(size * BATCH * steps)
    reference = build(0)
    start = [np.array(w) for w in reference.get_weights()]
    options = compile_options or {}
    reference.compile(optimizer=plain(), loss=loss, **options)
    # Keras loses the start values of ScheduleFreeAdamW's slots if it builds them in the graph.
    reference.optimizer.build(reference.trainable_variables)
    reference.fit(x, y, batch_size=size * BATCH, shuffle=False, verbose=0)

    if hvd.rank() == 0:
        build(0)
    model = build(100 + hvd.rank())
    model.compile(optimizer=distributed(), loss=loss, **options)
    own_x = np.concatenate([my_rows(x, step) for step in range(steps)])
    own_y = np.concatenate([my_rows(y, step) for step in range(steps)])
    # Rank 0's weights are the ones to start from.
    if hvd.rank() == 0:
        model.set_weights(start)
    model.fit(
        own_x,
        own_y,
        batch_size=BATCH,
        epochs=1,
        shuffle=False,
        verbose=0,
        callbacks=[hvd.callbacks.BroadcastGlobalVariablesCallback(0)],
    )
    same_on_all_ranks(model)
    moved = 0.0
    for mine, expected, first in zip(
        model.get_weights(), reference.get_weights(), start, strict=True
    ):
        np.testing.assert_allclose(mine, expected, rtol=rtol, atol=atol)
        moved += float(np.abs(expected - first).sum())
    assert untouched or moved > 1e-4, "the reference did not learn, so this proves nothing"
    return model
