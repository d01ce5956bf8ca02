"""Adasum of gradients, and of the steps that are made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from checks.compression.methods import gradients_of, variables_of
from checks.marks import long
from checks.reference import data, mlp, same_on_all_ranks
from keras import optimizers

import hvdkit as hvd
from hvdkit.exchange import AdasumDelta
from hvdkit.optimizers.composition import tracked_of
from hvdkit.state.inventory import inventory

SHAPES = ((3, 2), (4,))


def _possible() -> bool:
    return not hvd.gloo_enabled() and not hvd.size() & (hvd.size() - 1)


def _adasum(vectors: list[np.ndarray]) -> np.ndarray:
    """By the formula of Maleki et al., https://arxiv.org/abs/2006.02924."""
    if len(vectors) == 1:
        return vectors[0]
    half = len(vectors) // 2
    a, b = _adasum(vectors[:half]), _adasum(vectors[half:])
    dot = np.sum(a * b)
    return (1 - dot / (2 * np.sum(a * a))) * a + (1 - dot / (2 * np.sum(b * b))) * b


def _steps(distribute: Callable[[Any], Any], make: Callable[[], Any]) -> list[np.ndarray]:
    """Where three steps from zeros lead, in a graph."""
    variables = variables_of(SHAPES)
    optimizer = distribute(make())
    optimizer.build(variables)
    step = tf.function(lambda *g: optimizer.apply([*g]))
    for number in range(3):
        step(*map(tf.constant, gradients_of(number, hvd.rank(), SHAPES)))
    return [v.numpy() for v in variables]


def check_gradients_are_combined_for_each_variable() -> None:
    def of_gradients(optimizer: Any) -> Any:
        return hvd.DistributedOptimizer(optimizer, op=hvd.Adasum)

    if not _possible():
        with pytest.raises(NotImplementedError, match=r"hvd\.Adasum needs"):
            of_gradients(optimizers.SGD()).build(variables_of())
        return
    expected = [np.zeros(shape) for shape in SHAPES]
    for number in range(3):
        of_ranks = [gradients_of(number, rank, SHAPES) for rank in range(hvd.size())]
        for place, vectors in enumerate(zip(*of_ranks, strict=True)):
            expected[place] -= 0.5 * _adasum(list(vectors))
    for make in (of_gradients, _of_steps):  # the same for plain SGD
        for found, other in zip(_steps(make, lambda: optimizers.SGD(0.5)), expected, strict=True):
            np.testing.assert_allclose(found, other, rtol=1e-4, atol=1e-5)


def _of_steps(optimizer: Any) -> Any:
    return hvd.DistributedOptimizer(optimizer, exchange=AdasumDelta())


def check_steps_are_combined_as_each_optimizer_makes_them() -> None:
    if not _possible():
        with pytest.raises(NotImplementedError, match=r"hvd\.Adasum needs"):
            _of_steps(optimizers.SGD()).build(variables_of())
        return
    found = _steps(_of_steps, lambda: optimizers.Adam(0.1))
    each = [(optimizers.Adam(0.1), variables_of(SHAPES)) for _ in range(hvd.size())]
    weights = [np.zeros(shape) for shape in SHAPES]
    for number in range(3):
        moved = []
        for rank, (adam, own) in enumerate(each):
            for variable, value in zip(own, weights, strict=True):
                variable.assign(value)
            adam.apply([*map(tf.constant, gradients_of(number, rank, SHAPES))], own)
            moved.append([v.numpy() - w for v, w in zip(own, weights, strict=True)])
        steps = [_adasum(list(vectors)) for vectors in zip(*moved, strict=True)]
        weights = [w + step for w, step in zip(weights, steps, strict=True)]
    for mine, expected in zip(found, weights, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-3, atol=1e-5)


@long
def check_steps_in_fit_and_nan() -> None:
    if not _possible():
        return
    x, y = data(16, seed=hvd.rank())
    model = mlp(hvd.rank())
    optimizer = hvd.DistributedOptimizer(
        optimizers.Adam(0.02), exchange=AdasumDelta(), nonfinite=hvd.nonfinite.Skip()
    )
    model.compile(optimizer, "mse")
    callbacks = [
        hvd.callbacks.BroadcastGlobalVariablesCallback(0),
        hvd.callbacks.ConsistencyCheck(every_n_steps=1),
    ]
    history = model.fit(x, y, batch_size=4, epochs=3, verbose=0, callbacks=callbacks).history
    assert history["loss"][-1] < history["loss"][0]
    same_on_all_ranks(model)
    kernel = model.trainable_variables[0]
    assert any(row.variable is kernel and row.same_on for row in inventory(model))
    kept = [*model.trainable_variables, *(row.variable for row in tracked_of(optimizer))]
    before = [np.array(v) for v in kept]
    bad = np.nan if hvd.rank() == 0 else 1.0
    optimizer.apply([tf.fill(v.shape, np.float32(bad)) for v in model.trainable_variables])
    for old, variable in zip(before, kept, strict=True):
        np.testing.assert_array_equal(old, np.array(variable))


def check_sparse_gradients_are_refused() -> None:
    if not _possible():
        return
    embedding = keras.Variable(np.ones((4, 2), "float32"))
    optimizer = hvd.DistributedOptimizer(optimizers.SGD(1.0), op=hvd.Adasum)
    rows = tf.IndexedSlices(tf.ones([1, 2]), tf.constant([hvd.rank()]), (4, 2))
    with pytest.raises(ValueError, match="sparse_as_dense"):
        optimizer.apply([rows], [embedding])
