"""Shares that follow from the speeds of the ranks, and change in the middle of a training."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.hearing import heard
from checks.marks import long
from checks.reference import BATCH, same_on_all_ranks
from checks.sharding.reference import classifier, compare, compiled, global_batches, labelled_rows
from checks.unequal.kinds import KINDS, global_batch

import hvdkit as hvd
from hvdkit.data.shares import apportioned
from hvdkit.training import measured_shares

# More than what is measured, and dealt out meanwhile.
_STEPS = 34
_SPEEDS = [3.0, 1.0, 2.0]


@contextlib.contextmanager
def measured(rows_per_second: Callable[[], float | None]) -> Iterator[None]:
    """Let this rank measure that it computes so many rows a second, and does nothing besides."""
    original = measured_shares.own_seconds, measured_shares.besides_seconds

    def seconds(moments: Any) -> float | None:
        speed = rows_per_second()
        return None if speed is None else moments.rows / speed

    measured_shares.own_seconds = seconds
    measured_shares.besides_seconds = lambda before, moments: 0.0
    try:
        yield
    finally:
        measured_shares.own_seconds, measured_shares.besides_seconds = original


def _own(speeds: Sequence[Any] = _SPEEDS) -> Callable[[], Any]:
    return lambda: speeds[hvd.rank()]


def _noting(rows: list[int]) -> Callable[[Any, Any], Any]:
    """A function of a batch that notes how many rows it has."""

    def note(x: np.ndarray) -> np.ndarray:
        rows.append(len(x))
        return x

    def noted(x: Any, y: Any) -> Any:
        passed = tf.numpy_function(note, [x], tf.float32)
        return tf.ensure_shape(passed, x.shape), y

    return noted


def _shares(speeds: Sequence[float] = _SPEEDS) -> tuple[int, ...]:
    return apportioned(speeds[: hvd.size()], global_batch())


def _compare_changing(sharded: Any, single: Any, **more: Any) -> list[int]:
    """Compare with one process while shares change; returns the rows of this rank's steps."""
    rows: list[int] = []
    with measured(_own()):
        compare(single, sharded.map(_noting(rows)), **more)
    if hvd.size() > 1:
        begin, end = rows[0], max(set(rows[_STEPS:]), key=rows[_STEPS:].count)
        assert (begin, end) == (BATCH, _shares()[hvd.rank()]), rows
        changes = [i for i in range(1, _STEPS - 1) if rows[i] != rows[i - 1]]
        places = hvd.allgather_object(changes)
        assert len({place for own in places for place in own}) == 1, places
        assert sharded.weights == tuple(_SPEEDS[: hvd.size()])
    return rows


@long
def check_shares_change_in_the_middle_of_an_epoch() -> None:
    x, y = labelled_rows(_STEPS * global_batch() + 1)
    sharded = KINDS["arrays"](x, y, weights="measured")
    test = labelled_rows(global_batch() + 1)
    seen: list[int] = []
    validation = KINDS["samples"](*test, weights="measured").map(_noting(seen))
    rows = _compare_changing(
        sharded, global_batches(x, y), validation=(global_batches(*test), validation)
    )
    assert len(rows) == 2 * (_STEPS + 1)
    if hvd.size() > 1:
        assert _shares()[hvd.rank()] in seen, "the validation data keeps equal shares"


@long
def check_every_kind_of_data_changes_its_shares() -> None:
    x, y = labelled_rows(_STEPS * global_batch() + 3)
    for kind in KINDS:
        _compare_changing(KINDS[kind](x, y, weights="measured"), global_batches(x, y))


@long
def check_a_stream_that_shuffles_itself_is_not_begun_again() -> None:
    """A dataset that has another order in each pass, and no end."""
    x, y = labelled_rows(_STEPS * global_batch())

    def endless() -> tf.data.Dataset:
        samples = tf.data.Dataset.from_tensor_slices((x, y))
        return samples.shuffle(64, seed=1, reshuffle_each_iteration=True).repeat()

    hvd.set_random_seed(1)
    _compare_changing(
        hvd.shard(endless(), BATCH, weights="measured"),
        endless().batch(global_batch()),
        fit={"steps_per_epoch": _STEPS},
    )


def _fitted(data: Any, epochs: int, callbacks: Sequence[Any] = ()) -> keras.Model:
    keras.utils.set_random_seed(1)
    model = compiled(classifier(1), hvd.DistributedOptimizer("sgd"))
    model.fit(data, epochs=epochs, verbose=0, callbacks=list(callbacks))
    same_on_all_ranks(model)
    return model


@long
def check_looked_at_again_and_again() -> None:
    """Ranks whose speeds change change places; small differences change nothing.

    They agree after 10, 42, 170, 298, 426 and 554 steps.
    """
    x, y = labelled_rows(130 * global_batch())
    data = KINDS["samples"](x, y, weights="measured")
    swapped = [1.0, 3.0, 2.0]
    speeds = [[1.0, 1.01, 1.02], _SPEEDS, [3.01, 1.0, 2.0], swapped, swapped]
    weights: list[Any] = []
    epoch = 0

    class Epochs(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch_now: int, logs: Any = None) -> None:
            nonlocal epoch
            epoch = epoch_now

        def on_epoch_end(self, epoch_now: int, logs: Any = None) -> None:
            weights.append(data.weights)

    with measured(lambda: speeds[epoch][hvd.rank()]):
        _fitted(data, len(speeds), [Epochs()])
        size = hvd.size()
        if size > 1:
            first, last = tuple(_SPEEDS[:size]), tuple(swapped[:size])
            assert weights == [None, None, first, first, last]
        # What was measured holds for what comes next, in reading in order, too.
        model = _fitted(data, 1)
        np.testing.assert_allclose(
            model.predict(data, verbose=0), model.predict(x, verbose=0), rtol=1e-5, atol=1e-6
        )


@long
def check_nonsense_changes_nothing() -> None:
    x, y = labelled_rows(12 * global_batch())
    last = hvd.size() - 1
    for nonsense in (None, math.nan, -1.0, 1e12):
        data = KINDS["arrays"](x, y, weights="measured")
        own = nonsense if hvd.rank() == last else 1.0
        with heard() as texts, measured(_own([own] * hvd.size())):
            _fitted(data, 1)
        assert data.weights is None
        expected = hvd.size() > 1 and hvd.rank() == 0
        assert len([text for text in texts if "the shares stay" in text]) == expected, texts


class Slow(keras.layers.Layer):
    """A layer that takes a time for each row."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def call(self, x: Any) -> Any:
        def wait(rows: np.ndarray) -> np.ndarray:
            time.sleep(self._seconds * len(rows))
            return rows

        return tf.ensure_shape(tf.numpy_function(wait, [x], tf.float32), x.shape)


def _require_measured(seconds: float, **options: Any) -> None:
    """Rank 0 is slow, and a layer waits for the other ranks before all has been computed."""
    x, y = labelled_rows(12 * global_batch())
    data = KINDS["arrays"](x, y, weights="measured")
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.layers.Input((6,)),
            Slow(seconds / 4 if hvd.rank() else seconds),
            hvd.SyncBatchNormalization(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    compiled(model, hvd.DistributedOptimizer("sgd"), **options)
    model.fit(data, verbose=0)
    if hvd.size() > 1:
        assert data.weights is not None
        assert data.weights[0] == min(data.weights), data.weights


@long
def check_the_clock_tells_which_rank_is_slow() -> None:
    _require_measured(0.004)


@long
def check_the_clock_of_eager_steps() -> None:
    _require_measured(0.03, run_eagerly=True)
