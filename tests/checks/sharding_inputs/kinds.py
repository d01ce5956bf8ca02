"""Whatever `fit` takes: structures, types, text, ragged and sparse tensors, in every form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from checks.marks import long
from checks.reference import BATCH, same_on_all_ranks
from checks.sharding.reference import number_of_rows

import hvdkit as hvd

layers = keras.layers
WORDS = ["a", "b", "c", "d"]


def compare(build: Callable[[], keras.Model], single: Any, *forms: Any, epochs: int = 1) -> None:
    """Fit, evaluate and predict: of one process on `single`, and of the ranks on each form."""
    keras.utils.set_random_seed(3)
    reference = build()
    start = reference.get_weights()
    metrics = ["mae"] if len(reference.outputs) == 1 else None
    reference.compile(keras.optimizers.SGD(0.05), "mse", metrics=metrics)
    expected = reference.fit(single, epochs=epochs, shuffle=False, verbose=0).history
    results = reference.evaluate(single, verbose=0)
    predicted = reference.predict(single, verbose=0)

    model = build()
    optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(0.05))
    model.compile(optimizer, "mse", metrics=metrics)
    broadcast = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
    for sharded in forms:
        model.set_weights([w + hvd.rank() for w in start])
        history = model.fit(sharded, epochs=epochs, verbose=0, callbacks=[broadcast]).history
        same_on_all_ranks(model)
        for mine, theirs in zip(model.get_weights(), reference.get_weights(), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4)
        for name, values in expected.items():
            np.testing.assert_allclose(history[name], values, rtol=1e-4, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(
            model.evaluate(sharded, verbose=0), results, rtol=1e-3, atol=1e-4
        )
        same(model.predict(sharded, verbose=0), predicted)


def same(mine: Any, theirs: Any) -> None:
    """Predictions are equal: in structure, and in each array or ragged tensor."""
    keras.tree.assert_same_structure(mine, theirs)
    for a, b in zip(keras.tree.flatten(mine), keras.tree.flatten(theirs), strict=True):
        assert type(a) is type(b), (type(a), type(b))
        if isinstance(a, tf.RaggedTensor):
            assert a.shape.as_list() == b.shape.as_list()
            assert a.row_lengths().numpy().tolist() == b.row_lengths().numpy().tolist()
            a, b = a.flat_values.numpy(), b.flat_values.numpy()
        if a.dtype == object:
            assert a.tolist() == b.tolist()
        else:
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def global_batches(data: Any) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(data).batch(hvd.size() * BATCH)


def numbers(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(columns).normal(size=(rows, columns))


def two_inputs() -> keras.Model:
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    joined = layers.Concatenate()([layers.Dense(3)(a), layers.Dense(3)(b)])
    return keras.Model(
        [a, b], [layers.Dense(1, name="u")(joined), layers.Dense(2, name="v")(joined)]
    )


def of_text() -> keras.Model:
    text = keras.Input((), dtype="string")
    number = layers.StringLookup(vocabulary=WORDS)(text)
    return keras.Model(text, layers.Dense(1)(layers.Embedding(5, 2)(number)))


def linear(columns: int = 4) -> keras.Model:
    return keras.Sequential([keras.Input((columns,)), layers.Dense(1)])


@long
def check_lists_of_inputs_and_outputs() -> None:
    rows = number_of_rows(1)
    a, b, u, v = (numbers(rows, n) for n in (3, 2, 1, 2))
    weights = np.linspace(0.5, 2, rows)
    sharded = hvd.shard(([a, b], [u, v], weights), BATCH, shuffle=False)
    # One weight for each row counts for all outputs, as in fit.
    compare(two_inputs, global_batches(((a, b), (u, v), (weights, weights))), sharded)
    # A list alone is x, as in predict([a, b]).
    model = two_inputs()
    same(model.predict(hvd.shard([a, b], BATCH), verbose=0), model.predict([a, b], verbose=0))


@long
def check_text() -> None:
    rows = number_of_rows(1)
    words = [WORDS[i % 4] for i in range(rows)]
    y = numbers(rows, 1)
    single = global_batches((words, y))
    as_objects = np.array(words, dtype=object)
    for text in (as_objects, words, np.array(words), np.array(words, "S"), tf.constant(words)):
        sharded = hvd.shard((text, y), BATCH, shuffle=False)
        if text is as_objects:
            compare(of_text, single, sharded)
        else:
            batches = [x.numpy().tolist() for x, _, _ in sharded]
            objects = hvd.shard((as_objects, y), BATCH, shuffle=False)
            assert batches == [x.numpy().tolist() for x, _, _ in objects]


@long
def check_predictions_of_text_and_of_different_shapes() -> None:
    rows = number_of_rows(1)
    x = np.arange(rows) % 4
    i = keras.Input((), dtype="int64")
    back = layers.StringLookup(vocabulary=WORDS, invert=True, num_oov_indices=0)
    model = keras.Model(i, {"word": back(i), "number": keras.ops.cast(i, "float32")})
    same(model.predict(hvd.shard(x, BATCH), verbose=0), model.predict(x, verbose=0))
    # A last dimension that differs from batch to batch, and so from rank to rank.
    lengths = tf.data.Dataset.range(1, rows + 1).map(lambda n: tf.ones([n]))
    doubled = keras.Sequential([keras.Input((None,)), layers.Rescaling(2.0)])
    batches = lengths.padded_batch(BATCH)
    same(doubled.predict(hvd.shard(batches), verbose=0), doubled.predict(batches, verbose=0))


@long
def check_types_and_none() -> None:
    rows = number_of_rows(1)
    x, y = numbers(rows, 4), numbers(rows, 1)
    single = global_batches((x.astype("float32"), y.astype("float32")))
    float64 = hvd.shard((x, y), BATCH, shuffle=False)
    tensors = hvd.shard((tf.constant(x), tf.constant(y)), BATCH, shuffle=False)
    compare(linear, single, float64, tensors)
    for kind in ("bool", "uint8", "float16", "int64"):
        batch, _ = next(iter(hvd.shard(x.astype(kind), BATCH)))
        assert batch.dtype == ("float32" if kind == "float16" else kind), batch.dtype
    batch, _ = next(iter(hvd.shard({"a": x, "b": None}, BATCH)))
    assert batch["b"] is None
    assert batch["a"].dtype == "float32"
    objects = np.array([[1, 2.5], [True, 4]] * rows, dtype=object)
    assert next(iter(hvd.shard(objects, BATCH)))[0].dtype == "float32"
    for wrong, message in (
        (np.array([[1], [2, 3]] * rows, dtype=object), "tf.ragged.constant"),
        ([[1], [2, 3]] * rows, "tf.ragged.constant"),
        (np.array(["2020-01-01"] * rows, dtype="datetime64"), "datetime64"),
        (np.array(["a", 1] * rows, dtype=object), "int, str"),
    ):
        with pytest.raises(TypeError, match=message):
            hvd.shard(wrong, BATCH)


@long
def check_ragged_and_sparse_tensors() -> None:
    rows = number_of_rows(1)
    y = numbers(rows, 1).astype("float32")
    lengths = np.arange(rows) % 3 + 1
    ragged = tf.RaggedTensor.from_row_lengths(np.arange(lengths.sum()) % 4, lengths)

    def of_ragged() -> keras.Model:
        words = keras.Input((None,), dtype="int64", ragged=True)
        dense = layers.Lambda(lambda t: t.to_tensor(shape=[None, 3]), output_shape=(3,))(words)
        return keras.Model(words, layers.Dense(1)(keras.ops.cast(dense, "float32")))

    dense = np.where(np.random.default_rng(0).random((rows, 4)) > 0.5, numbers(rows, 4), 0)
    dense = dense.astype("float32")
    sparse = tf.sparse.from_dense(dense)
    for build, x, cut in ((of_ragged, ragged, 3), (linear, sparse, None)):
        samples = tf.data.Dataset.from_tensor_slices((x, y))
        arrays = hvd.shard((x, y), BATCH, shuffle=False)
        dataset = hvd.shard(samples if cut is None else samples.batch(cut), BATCH)
        compare(build, global_batches((x, y)), arrays, dataset)
    shuffled = [
        (b.numpy().ravel(), tf.sparse.to_dense(a).numpy())
        for a, b, _ in hvd.shard((sparse, y), BATCH, seed=1)
    ]
    for targets, found in shuffled:
        for target, row in zip(targets, found, strict=True):
            np.testing.assert_array_equal(row, dense[np.flatnonzero(y == target)[0]])


@long
def check_sparse_matrices_of_scipy() -> None:
    matrices = pytest.importorskip("scipy.sparse")
    rows = number_of_rows(1)
    dense = np.where(np.random.default_rng(0).random((rows, 4)) > 0.5, numbers(rows, 4), 0)
    y = numbers(rows, 1)
    single = global_batches((dense.astype("float32"), y.astype("float32")))
    compare(linear, single, hvd.shard((matrices.coo_matrix(dense), y), BATCH, shuffle=False))


class Frame:
    """What hvd.shard uses of a DataFrame of pandas, which tests run without."""

    columns = ("a", "b")
    iloc = None

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    def to_numpy(self) -> np.ndarray:
        return self._array


@long
def check_columns_of_pandas() -> None:
    rows = number_of_rows(1)
    frame, series = Frame(numbers(rows, 2)), Frame(np.arange(rows))
    x, y, _ = next(iter(hvd.shard((frame, series), BATCH)))
    assert [x.shape, y.shape] == [(BATCH, 2), (BATCH, 1)]  # as in fit
    with pytest.raises(TypeError, match=r"frame\[name\]"):
        hvd.shard(Frame(np.array([["a", 1]] * rows, dtype=object)), BATCH)
