"""`fit` with data that is not from hvd.shard: the same rows on all ranks, and uneven numbers."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from checks.marks import long
from checks.sharding.reference import classifier, compiled, labelled_rows
from checks.sharding_inputs.contents import Batches, _augmented

import hvdkit as hvd
from hvdkit.training import comparison

D = tf.data.Dataset
ROWS = 96
B = 8


@contextlib.contextmanager
def _said() -> Iterator[list[str]]:
    texts: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            texts.append(record.getMessage())

    handler = Keep()
    comparison._said.clear()
    logging.getLogger("hvdkit").addHandler(handler)
    try:
        yield texts
    finally:
        logging.getLogger("hvdkit").removeHandler(handler)


def _fit() -> Callable[..., None]:
    model = compiled(classifier(0), hvd.DistributedOptimizer(keras.optimizers.SGD(0.1)))

    def fit(*data: Any, **options: Any) -> None:
        model.fit(*data, verbose=0, **options)

    return fit


def _unknown(dataset: D) -> D:
    return dataset.filter(lambda *row: True)


def _batches(x: np.ndarray, y: np.ndarray, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for _ in range(count):
        yield x[:B], y[:B]


@long
def check_the_same_rows_on_all_ranks_are_said_once() -> None:
    if hvd.size() == 1:
        return
    x, y = labelled_rows(ROWS)
    fit = _fit()
    dataset = D.from_tensor_slices((x, y)).shuffle(ROWS).map(_augmented)
    for call in (
        lambda: fit(x, y),
        lambda: fit(x, y, validation_split=0.25),
        lambda: fit(dataset.batch(B)),
        lambda: fit(Batches(x, y)),
        lambda: fit(Batches(x, y, noise=1.0)),
        lambda: fit(_batches(x, y, 2)),
    ):
        with _said() as texts:
            call()
            call()
        ranks = ", ".join(map(str, range(hvd.size())))
        assert len(texts) == (hvd.rank() == 0), texts
        assert all(f"ranks {ranks} train on the same rows" in text for text in texts)


@long
def check_ranks_that_divide_the_rows_themselves_hear_nothing() -> None:
    x, y = labelled_rows(ROWS)
    rank, size = hvd.rank(), hvd.size()
    samples = D.from_tensor_slices((x, y))
    fit = _fit()
    captured = tf.constant(rank, tf.int64)
    filtered = samples.shuffle(B).enumerate().filter(lambda i, row: i % size == captured)
    with _said() as texts:
        fit(x[rank::size], y[rank::size])
        fit(samples.shuffle(ROWS).shard(size, rank).batch(B))
        fit(filtered.map(lambda i, row: row).batch(B))
        fit(Batches(np.roll(x, rank, axis=0), y))
        fit(samples.shard(size, rank).repeat().batch(B), steps_per_epoch=3)
        fit(hvd.shard((x, y), B))
    assert texts == []


@long
def check_uneven_numbers_of_batches_are_an_error() -> None:
    if hvd.size() == 1:
        return
    x, y = labelled_rows(ROWS)
    rank, size = hvd.rank(), hvd.size()
    own = int(rank == 1)
    uneven = D.from_tensor_slices((x, y)).take(5 * size - 1).shard(size, rank).batch(1)
    more = slice(0, B * (5 + own))

    def fit(*data: Any, **options: Any) -> None:
        """Of a new model each time: after the error the ranks have different weights."""
        _fit()(*data, **options)

    cases: list[tuple[str, Callable[[], None]]] = [
        ("batches: 5 on rank 0.*, 4 on rank", lambda: fit(uneven)),
        ("batches: 5 on rank 0.*, 6 on rank 1", lambda: fit(x[more], y[more], batch_size=B)),
        ("steps in epoch 1: 5 on rank 0.*, 4 on", lambda: fit(_unknown(uneven))),
        ("steps in epoch 1: 2 on rank 0.*, 3 on", lambda: fit(_batches(x, y, 2 + own))),
        (
            "steps in epoch 2: 2 on rank 0.*, 3 on rank 1",
            lambda: fit(
                _unknown(D.from_tensor_slices((x[more], y[more]))).batch(B),
                steps_per_epoch=3,
                epochs=3,
            ),
        ),
        ("steps_per_epoch: 3 on rank 0", lambda: fit(uneven.repeat(), steps_per_epoch=3 + own)),
        ("batches: no end on", lambda: fit(uneven.repeat(1 if own else None))),
        ("different epochs: 1 on rank 0", lambda: fit(uneven.repeat(), epochs=1 + own)),
        (
            "different validation",
            lambda: fit(
                x[rank::size],
                y[rank::size],
                validation_data=hvd.shard((x, y), B),
                validation_steps=1 + own,
            ),
        ),
    ]
    for part, call in cases:
        with pytest.raises(hvd.RankMismatchError, match=part):
            call()


@long
def check_a_rank_without_data_is_an_error() -> None:
    if hvd.size() == 1:
        return
    x, y = labelled_rows(ROWS)
    rows = 0 if hvd.rank() == 1 else 4 * B
    empty = _unknown(D.from_tensor_slices((x[:rows], y[:rows]))).batch(B)
    with pytest.raises(hvd.RankMismatchError, match=r"epoch 1: 1 on rank 0.*, 0 on rank 1"):
        _fit()(empty)


@long
def check_even_numbers_that_nobody_knew() -> None:
    x, y = labelled_rows(ROWS)
    model = compiled(classifier(0), hvd.DistributedOptimizer(keras.optimizers.SGD(0.1)))
    own = _unknown(D.from_tensor_slices((x, y)).shard(hvd.size(), hvd.rank())).batch(1)
    model.fit(own, epochs=2, verbose=0)
    one = compiled(classifier(0), keras.optimizers.SGD(0.1))
    one.fit(x, y, batch_size=hvd.size(), epochs=2, shuffle=False, verbose=0)
    for mine, theirs in zip(model.get_weights(), one.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)
