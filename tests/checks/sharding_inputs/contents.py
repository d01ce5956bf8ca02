"""Ranks that do not hold the same rows are an error, on every rank; what may differ is not."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from checks.marks import long
from checks.reference import BATCH
from checks.sharding.reference import classifier, compiled, labelled_rows

import hvdkit as hvd

D = tf.data.Dataset
ROWS = 96
OTHER = "the ranks do not hold the same data"


class Batches(keras.utils.PyDataset):
    """Batches of arrays, with noise of its own in x."""

    def __init__(self, x: np.ndarray, y: np.ndarray, noise: float = 0.0) -> None:
        super().__init__()
        self.x, self.y, self.noise = x, y, noise
        self.random = np.random.default_rng(hvd.rank())

    def __len__(self) -> int:
        return len(self.x) // 8

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rows = slice(8 * index, 8 * index + 8)
        noise = self.noise * self.random.normal(size=self.x[rows].shape)
        return (self.x[rows] + noise).astype("float32"), self.y[rows]


class Broken(Batches):
    """Can't be read on rank 1."""

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if hvd.rank() == 1:
            raise KeyError("the file of rank 1")
        return super().__getitem__(index)


def _rows() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x and y, and both as each rank has shuffled them itself."""
    x, y = labelled_rows(ROWS)
    order = np.random.default_rng(hvd.rank()).permutation(ROWS)
    return x, y, x[order], y[order]


def _dataset(x: np.ndarray, y: np.ndarray) -> D:
    return D.from_tensor_slices((x, y))


def _generated(x: np.ndarray, y: np.ndarray) -> D:
    spec = (tf.TensorSpec((6,), tf.float32), tf.TensorSpec((), tf.int32))
    return D.from_generator(lambda: zip(x, y, strict=True), output_signature=spec)


def _augmented(x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return x + tf.random.normal(tf.shape(x)), y


@long
def check_other_rows_are_an_error() -> None:
    if hvd.size() == 1:
        return
    x, y, shuffled_x, shuffled_y = _rows()
    own = int(hvd.rank() == 1)
    cases: list[Callable[[], Any]] = [
        lambda: hvd.shard((shuffled_x, shuffled_y), BATCH),
        lambda: hvd.shard((x, shuffled_y), BATCH),
        lambda: hvd.shard(np.array([f"text {i + own}" for i in range(ROWS)]), BATCH),
        lambda: hvd.shard(_dataset(shuffled_x, shuffled_y).batch(8), BATCH),
        lambda: hvd.shard(_dataset(shuffled_x, shuffled_y).map(_augmented), BATCH),
        lambda: hvd.shard(_dataset(x, y).shard(hvd.size(), hvd.rank()), BATCH),
        lambda: hvd.shard(D.range(ROWS).filter(lambda i: i % 2 == own), BATCH),
        lambda: hvd.shard(D.range(20 * own).filter(lambda i: i >= 0), BATCH),
        lambda: hvd.shard(Batches(shuffled_x, shuffled_y)),
        lambda: hvd.shard(Batches(x, shuffled_y, noise=1.0)),
    ]
    for make in cases:
        with pytest.raises(hvd.RankMismatchError, match=f"{OTHER}.*on rank.*hvd.shard divides"):
            make()


@long
def check_other_files_are_an_error() -> None:
    if hvd.size() == 1:
        return
    with tempfile.TemporaryDirectory() as folder:
        names = []
        for name, lines in (("a.txt", 20), ("b.txt", 20 - int(hvd.rank() == 1))):
            file = Path(folder) / name
            file.write_text("".join(f"{i}\n" for i in range(lines)))
            names.append(str(file))
        lengths = tf.data.TextLineDataset(names[:1]).map(tf.strings.length)
        read = [n for batch, w in hvd.shard(lengths, 1) for n in batch.numpy()[w.numpy() > 0]]
        assert len(read) > 0
        with pytest.raises(hvd.RankMismatchError, match=r"b\.txt, 50 bytes; b\.txt, 47 bytes"):
            hvd.shard(tf.data.TextLineDataset(names), 1)


@long
def check_what_may_differ_is_taken() -> None:
    x, y, *_ = _rows()
    almost = x * np.float32(1 + 1e-7 * hvd.rank())
    hvd.shard((almost, y), BATCH)
    hvd.shard(_dataset(x, y).map(_augmented).batch(8), BATCH)
    hvd.shard(Batches(x, y, noise=1.0))


def check_arrays_with_nan() -> None:
    if hvd.size() == 1:
        return
    x = np.full((ROWS, 3), np.nan, "float32")
    x[: ROWS // 2, 1] = np.arange(ROWS // 2)
    hvd.shard(x, BATCH)
    if hvd.rank() == 1:
        x[-1, 0] = 1.0
    with pytest.raises(hvd.RankMismatchError, match=f"row {ROWS - 1} of array 0 of the data"):
        hvd.shard(x, BATCH)


def check_a_generator_is_not_read_before() -> None:
    calls = []

    def rows() -> Iterator[np.int64]:
        calls.append(1)
        yield from np.arange(ROWS)

    data = D.from_generator(rows, output_signature=tf.TensorSpec((), tf.int64))
    shard = hvd.shard(data, 1)
    assert not calls
    assert len([1 for _ in shard]) == -(-ROWS // hvd.size())
    assert len(calls) == 1


def check_a_shuffled_dataset_goes_on_where_it_was() -> None:
    plain, sharded = (D.range(ROWS).shuffle(ROWS, seed=1) for _ in range(2))
    hvd.shard(sharded, 1)
    for _ in range(2):
        assert [int(i) for i in plain] == [int(i) for i in sharded]


@long
def check_generators_are_compared_once_they_are_read() -> None:
    if hvd.size() == 1:
        return
    x, y, shuffled_x, shuffled_y = _rows()
    model = compiled(classifier(0), hvd.DistributedOptimizer(keras.optimizers.SGD(0.1)))
    model.fit(hvd.shard(_generated(x, y).map(_augmented), BATCH), verbose=0)
    with pytest.raises(hvd.RankMismatchError, match=f"{OTHER}: in the first batch"):
        model.fit(hvd.shard(_generated(shuffled_x, shuffled_y), BATCH), verbose=0)
    with pytest.raises(hvd.RankMismatchError, match=f"{OTHER}: in the first batch"):
        model.evaluate(hvd.shard(_generated(shuffled_x, shuffled_y), BATCH), verbose=0)


def check_data_that_one_rank_cannot_read() -> None:
    if hvd.size() == 1:
        return
    x, y, *_ = _rows()
    with pytest.raises(KeyError if hvd.rank() == 1 else hvd.HvdkitError, match="file of rank 1"):
        hvd.shard(Broken(x, y))
