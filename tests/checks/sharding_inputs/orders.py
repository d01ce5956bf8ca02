"""Datasets that each rank would read in an order of its own are refused."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import keras
import pytest
import tensorflow as tf
from checks.marks import long

import hvdkit as hvd

D = tf.data.Dataset
SEED = "without a seed"
ORDER = "deterministic=False"


def _shuffled(i: tf.Tensor) -> D:
    return D.range(i, i + 5).shuffle(5)


def _seeded(i: tf.Tensor) -> D:
    return D.range(i, i + 5).shuffle(5, seed=1)


def _rows(i: tf.Tensor) -> D:
    return D.range(i, i + 5)


def _nested(i: tf.Tensor) -> D:
    return D.range(2).flat_map(_shuffled)


def _drawn(i: tf.Tensor) -> tf.Tensor:
    return tf.random.uniform(()) > 0.5


def _drawn_by_seed(i: tf.Tensor) -> tf.Tensor:
    return tf.random.uniform((), seed=1) > 0.5


def _parity(i: tf.Tensor) -> tf.Tensor:
    return tf.cast(i % 2, tf.int32)


@long
def check_orders_that_differ_by_rank_are_refused() -> None:
    tf.random.set_seed(None)  # with one, which other checks set, all orders are those of a seed
    made_before = D.range(5).shuffle(5)
    cases: list[tuple[str, Callable[[], D]]] = [
        (SEED, lambda: D.zip((D.range(9).shuffle(9), D.range(9)))),
        (SEED, lambda: D.range(9).concatenate(D.range(9).shuffle(2))),
        (SEED, lambda: D.range(9).flat_map(_shuffled)),
        (SEED, lambda: D.range(9).flat_map(_nested).cache().repeat(2)),
        (SEED, lambda: D.range(9).flat_map(lambda i: made_before)),
        (SEED, lambda: D.range(9).interleave(_shuffled, num_parallel_calls=2)),
        (SEED, lambda: D.range(9).filter(_drawn)),
        (SEED, lambda: D.sample_from_datasets([D.range(9), D.range(9)], [0.5, 0.5])),
        (SEED, lambda: D.choose_from_datasets([D.range(9)] * 2, D.random().map(lambda i: i % 2))),
        (SEED, lambda: D.range(9).rejection_resample(_parity, [0.5, 0.5])),
        (SEED, lambda: D.range(9).group_by_window(_key, _group, window_size=3)),
        (ORDER, lambda: D.range(9).interleave(_rows, num_parallel_calls=2, deterministic=False)),
        (ORDER, lambda: D.range(9).map(_parity, num_parallel_calls=2, deterministic=False)),
        (ORDER, lambda: D.range(9).batch(2, num_parallel_calls=2, deterministic=False).unbatch()),
    ]
    for part, make in cases:
        with pytest.raises(ValueError, match=part):
            hvd.shard(make(), 1)


def _key(i: tf.Tensor) -> tf.Tensor:
    return i % 2


def _group(key: tf.Tensor, window: D) -> D:
    return window.shuffle(3).batch(2)


@long
def check_orders_that_agree_are_taken() -> None:
    options = tf.data.Options()
    options.deterministic = False  # of the whole: hvd.shard reads in order whatever it says
    for make in (
        lambda: D.zip((D.range(9).shuffle(9, seed=1), D.range(9))),
        lambda: D.range(9).flat_map(_seeded),
        lambda: D.range(9).interleave(_rows, num_parallel_calls=2),
        lambda: D.range(99).filter(_drawn_by_seed),
        lambda: D.sample_from_datasets([D.range(9), D.range(9)], [0.5, 0.5], seed=1),
        lambda: D.range(99).rejection_resample(_parity, [0.5, 0.5], seed=1).map(_second),
        lambda: D.range(9).with_options(options),
        lambda: D.range(9).map(lambda i: tf.cast(i, tf.float32) + tf.random.normal(())),
    ):
        assert len(list(hvd.shard(make(), 1))) > 0


def _second(label: tf.Tensor, row: tf.Tensor) -> tf.Tensor:
    return row


def check_seeds_that_differ_by_rank_are_an_error() -> None:
    if hvd.size() == 1:
        return
    with pytest.raises(hvd.RankMismatchError, match=r"on rank 0, but .* on rank"):
        hvd.shard(D.range(9).shuffle(9, seed=int(hvd.rank() == 1)), 1)


@long
def check_files_in_an_order_of_their_own() -> None:
    if hvd.size() == 1:
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
            file = Path(folder) / name
            file.parent.mkdir(exist_ok=True)
            keras.utils.save_img(file, tf.zeros((4, 4, 3)).numpy())
        tf.random.set_seed(None)
        with pytest.raises(ValueError, match="list_files"):
            hvd.shard(D.list_files(f"{folder}/*/*"), 1)
        images = {"directory": folder, "image_size": (4, 4), "batch_size": 1, "verbose": False}
        keras.utils.set_random_seed(hvd.rank())
        with pytest.raises(hvd.RankMismatchError, match=r"image_dataset_from_directory\(.*seed"):
            hvd.shard(keras.utils.image_dataset_from_directory(**images))
        # The global seed takes part in each order.
        with pytest.raises(hvd.RankMismatchError, match=r"set_random_seed"):
            hvd.shard(keras.utils.image_dataset_from_directory(**images, seed=1), 1)
        keras.utils.set_random_seed(0)
        data = hvd.shard(keras.utils.image_dataset_from_directory(**images, seed=1), 1)
        assert len(data) == -(-4 // hvd.size())
