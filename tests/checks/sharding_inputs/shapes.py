"""Batches that differ in more than their rows, and rows that are made by a function."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from checks.marks import long
from checks.reference import BATCH
from checks.sharding.reference import number_of_rows
from checks.sharding_inputs.kinds import compare, global_batches, linear, numbers, same

import hvdkit as hvd

layers = keras.layers


def of_any_length() -> keras.Model:
    """A model to which padding with zeros means nothing."""
    values = keras.Input((None,))
    total = keras.ops.sum(keras.ops.tanh(values), axis=1, keepdims=True)
    return keras.Model(values, layers.Dense(1)(total))


def of_different_lengths(rows: int) -> tf.data.Dataset:
    """Samples (values of 1 to 5 numbers, target)."""
    y = numbers(rows, 1).astype("float32")
    samples = tf.data.Dataset.from_tensor_slices(y).enumerate()
    return samples.map(lambda i, target: (tf.ones([i % 5 + 1]) * target, target))


@long
def check_padded_batches() -> None:
    samples = of_different_lengths(number_of_rows(BATCH + 1))
    own, whole = samples.padded_batch(BATCH), samples.padded_batch(hvd.size() * BATCH)
    # Each rank takes batches of its own, or each batch is divided.
    compare(of_any_length, whole, hvd.shard(own), hvd.shard(whole, BATCH))
    for batches in (own, whole):
        rows = [len(x) for x, _ in hvd.shard(batches, BATCH, remainder="drop")]
        assert rows == [BATCH] * (number_of_rows(BATCH + 1) // (hvd.size() * BATCH))
    if hvd.size() > 1:
        with pytest.raises(tf.errors.InvalidArgumentError, match="leave batch_size out"):
            list(hvd.shard(of_different_lengths(30).padded_batch(2), 3))


@long
def check_buckets_whose_batches_have_different_rows() -> None:
    samples = of_different_lengths(number_of_rows(1))
    buckets = samples.bucket_by_sequence_length(
        lambda values, _: tf.shape(values)[0], [3], [BATCH, 2]
    )
    keras.utils.set_random_seed(3)
    model = of_any_length()
    model.compile(loss="mse", metrics=["mae"])
    sharded = hvd.shard(buckets)
    expected = model.evaluate(buckets, verbose=0)
    np.testing.assert_allclose(model.evaluate(sharded, verbose=0), expected, rtol=1e-4)
    same(model.predict(sharded, verbose=0), model.predict(buckets, verbose=0))
    # A step of the ranks is one with as many batches of one process, weighed by their rows.
    groups = list(buckets)
    groups = [groups[i : i + hvd.size()] for i in range(0, len(groups), hvd.size())]
    for group, (x, _, weights) in zip(groups, sharded, strict=True):
        everyone = hvd.allgather_object(float(weights[0]) * (len(x) if weights[0] > 0 else 0))
        total = sum(len(batch[0]) for batch in group)
        if hvd.rank() < len(group):
            np.testing.assert_allclose(weights[0], hvd.size() * len(group[hvd.rank()][0]) / total)
        assert len(everyone) == hvd.size()


@long
def check_padded_batches_are_shuffled_alike() -> None:
    rows = number_of_rows(0)
    samples = tf.data.Dataset.range(rows).map(lambda i: tf.fill([i % 3 + 1], i))
    sharded = hvd.shard(samples.padded_batch(2), shuffle=True, seed=1)
    orders = []
    for _ in range(2):
        own = [x.numpy()[:, 0].tolist() for x, w in sharded if w[0] > 0]
        everyone = [batch for other in hvd.allgather_object(own) for batch in other]
        assert sorted(i for batch in everyone for i in batch) == list(range(rows))
        orders.append(everyone)
    assert orders[0] != orders[1]


class Groups(keras.utils.PyDataset):
    """Batches of any rows and shapes."""

    def __init__(self, batches: list[Any], **options: Any) -> None:
        super().__init__(**options)
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Any:
        return self.batches[index]


@long
def check_pydataset_with_batches_of_any_rows_and_shapes() -> None:
    sizes = [4, 3, 1, 4, 4, 2, 5]
    batches = [(np.ones((n, i % 3 + 2)) * (i - 3), numbers(n, 1)) for i, n in enumerate(sizes)]
    n = hvd.size()
    steps = [batches[i : i + n] for i in range(0, len(batches), n)]

    def padded(x: np.ndarray) -> np.ndarray:
        return np.pad(x, ((0, 0), (0, 4 - x.shape[1])))

    together = [
        (np.concatenate([padded(x) for x, _ in step]), np.concatenate([y for _, y in step]))
        for step in steps
    ]
    forms = [hvd.shard(Groups(batches, workers=w), shuffle=False) for w in (1, 2)]
    compare(of_any_length, Groups(together), *forms)
    with pytest.raises(ValueError, match='remainder="pad"'):
        hvd.shard(Groups(batches), remainder="drop")


@long
def check_pydataset_whose_rows_are_known_needs_no_word_between_ranks() -> None:
    equal = [np.full((4, 2), float(i)) for i in range(4 * hvd.size())]
    assert hvd.shard(Groups([*equal, equal[0][:1]])).element_spec[0].shape == (None, 2)
    if hvd.size() == 1:
        return
    with pytest.raises(TypeError, match="known only when it is read"):
        hvd.shard(Groups([equal[0][:1], *equal])).take(1)
    shard = hvd.shard(Groups([*equal[:-1], equal[-1][:3], equal[0]]), shuffle=False)
    if hvd.rank() == hvd.size() - 1:  # who reads the one that differs
        with pytest.raises(tf.errors.InvalidArgumentError, match="let the first two differ"):
            list(shard)
    else:
        assert len(list(shard)) == len(shard)


@long
def check_pydataset_of_text_lists_and_tensors() -> None:
    words = np.array(["a", "b"], dtype=object)
    ragged = tf.ragged.constant([[1], [2, 3]])
    sparse = tf.sparse.from_dense(np.eye(2))
    batch = [{"text": words, "list": [1, 2], "none": None}, [ragged, sparse, tf.constant([1, 2])]]
    own = list(hvd.shard(Groups([batch] * (2 * hvd.size() + 1))))
    assert len(own) == 3
    for x, (a, b, c), weights in own[:2]:
        assert x["text"].numpy().tolist() == [b"a", b"b"]
        assert x["none"] is None
        assert a.to_list() == [[1], [2, 3]]
        assert x["list"].numpy().tolist() == c.numpy().tolist() == [1, 2]
        assert weights.shape == (2,)
        np.testing.assert_array_equal(tf.sparse.to_dense(b), np.eye(2))
    x, (a, b, c), weights = own[2]
    rows = 2 if hvd.rank() == 0 else 1
    assert weights.numpy().tolist() == ([hvd.size()] * 2 if hvd.rank() == 0 else [0])
    assert a.nrows() == b.shape[0] == len(c) == len(x["text"]) == rows


@long
def check_map_is_called_for_own_rows_only() -> None:
    rows = number_of_rows(1)
    x, y = numbers(rows, 4).astype("float32"), numbers(rows, 1).astype("float32")
    calls: list[int] = []

    def note(number: np.ndarray) -> np.ndarray:
        calls.append(int(number))
        return number

    def decode(number: tf.Tensor, target: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        number = tf.numpy_function(note, [number], tf.int64)
        return tf.gather(x, tf.ensure_shape(number, [])), 2 * target

    single = global_batches((x, 2 * y))
    numbered = (np.arange(rows), y)
    samples = tf.data.Dataset.from_tensor_slices(numbered)
    unknown = samples.filter(lambda *_: tf.constant(True))
    forms = [hvd.shard(d, BATCH, shuffle=False, map=decode) for d in (numbered, unknown)]
    compare(linear, single, *forms)
    calls.clear()
    for _ in hvd.shard(numbered, BATCH, map=decode, seed=1):
        pass
    everyone = hvd.allgather_object(calls)
    assert set().union(*everyone) == set(range(rows))
    assert all(len(own) <= -(-rows // hvd.size()) + 1 for own in everyone)


@long
def check_map_gives_what_map_before_gives() -> None:
    rows = number_of_rows(1)
    files = [str(i) for i in range(rows)]
    dataset = tf.data.Dataset.from_tensor_slices(files)

    def decode(text: tf.Tensor) -> tf.Tensor:
        return tf.strings.to_number(text)

    ready = np.arange(rows, dtype="float32")
    for options in ({}, {"remainder": "drop"}):
        for inside, before in (
            (hvd.shard(files, BATCH, map=decode, **options), hvd.shard(ready, BATCH, **options)),
            (
                hvd.shard(dataset, BATCH, True, map=decode, **options),
                hvd.shard(dataset.map(decode), BATCH, True, **options),
            ),
        ):
            for position in (None, {"epoch": 1, "place": hvd.size() * BATCH}):
                if position is not None:
                    inside.start_at(position)
                    before.start_at(position)
                mine, theirs = list(inside), list(before)
                assert len(mine) == len(theirs) > 0
                keras.tree.map_structure(np.testing.assert_array_equal, mine, theirs)
    for wrong, message in (
        (dataset.batch(2), "before .batch"),
        (Groups([np.zeros((2, 1))] * hvd.size()), "__getitem__"),
    ):
        with pytest.raises(TypeError, match=message):
            hvd.shard(wrong, 2, map=decode)
