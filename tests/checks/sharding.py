"""Sharded data: an epoch over the ranks is an epoch of one process, to the last, uneven batch."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from checks.reference import data, mlp, same_on_all_ranks

import hvdkit as hvd

B = 4


def _rows(extra: int = 1) -> int:
    """A number of rows whose last global batch has `extra` rows: fewer than ranks if possible."""
    return 3 * hvd.size() * B + extra


def _labels(rows: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = data(rows)
    return x, (y.argmax(1) + (x[:, 0] > 0.5)).astype("int32")


def _classifier(seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.layers.Input((6,)),
            keras.layers.Dense(8, activation="tanh", activity_regularizer="l2"),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )


def _compile(model: keras.Model, optimizer: Any, **options: Any) -> keras.Model:
    model.compile(
        optimizer=optimizer,
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy(name="weighted")],
        **options,
    )
    return model


def _compare(
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
    reference = _compile(_classifier(0), keras.optimizers.Adam(0.02), **options)
    start = reference.get_weights()
    plain = {} if validation is None else {"validation_data": validation[0]}
    expected = reference.fit(single, **fit, **plain).history

    model = _classifier(50 + hvd.rank())
    if hvd.rank() == 0:
        model.set_weights(start)
    _compile(model, hvd.DistributedOptimizer(keras.optimizers.Adam(0.02)), **options)
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


def _global(x: Any, y: Any, *more: Any) -> tf.data.Dataset:
    """What one process reads: global batches in order."""
    return tf.data.Dataset.from_tensor_slices((x, y, *more)).batch(hvd.size() * B)


def check_every_row_once_and_equal_numbers_of_batches() -> None:
    for extra in range(hvd.size() * B):
        rows = _rows(extra)
        shard = hvd.shard((np.arange(rows), np.arange(rows)), B, seed=5)
        seen, batches = [], 0
        for x, _y, weights in shard:
            batches += 1
            seen += x.numpy()[weights.numpy() > 0].tolist()
        everyone = hvd.allgather_object((seen, batches))
        assert sorted(i for own, _ in everyone for i in own) == list(range(rows))
        assert len({count for _, count in everyone}) == 1
        assert everyone[0][1] == len(shard)


def check_reshuffles_each_epoch_alike() -> None:
    rows = _rows(0)
    shard = hvd.shard(np.arange(rows), B, seed=5)
    epochs = [[i for x, _ in shard for i in x.numpy()] for _ in range(2)]
    assert epochs[0] != epochs[1]
    again = hvd.shard(np.arange(rows), B, seed=5)
    again.set_epoch(1)
    assert [i for x, _ in again for i in x.numpy()] == epochs[1]


def check_drop() -> None:
    rows = _rows(B - 1)
    shard = hvd.shard(np.arange(rows), B, remainder="drop")
    own = [x.numpy().tolist() for x in shard]
    assert [len(batch) for batch in own] == [B] * 3
    seen = [i for batches in hvd.allgather_object(own) for batch in batches for i in batch]
    assert len(set(seen)) == len(seen) == 3 * B * hvd.size()


def check_arrays_uneven() -> None:
    for extra in (1, hvd.size() + 1, 2 * hvd.size() + 1):
        x, y = _labels(_rows(extra))
        _compare(_global(x, y), hvd.shard((x, y), B, shuffle=False))


def check_arrays_with_sample_weight() -> None:
    x, y = _labels(_rows(1))
    weights = np.linspace(0.5, 2, len(x)).astype("float32")
    _compare(_global(x, y, weights), hvd.shard((x, y, weights), B, shuffle=False))


def check_class_weight() -> None:
    x, y = _labels(_rows(1))
    _compare(
        _global(x, y),
        hvd.shard((x, y), B, shuffle=False),
        fit={"class_weight": {0: 0.5, 1: 2.0, 2: 1.5}},
    )


def check_shuffled_arrays_see_the_same_global_batches() -> None:
    x, y = _labels(_rows(1))
    order = [np.random.default_rng([3, epoch]).permutation(len(x)) for epoch in range(2)]
    batches = [
        (x[rows], y[rows])
        for epoch in order
        for rows in np.array_split(epoch, range(hvd.size() * B, len(x), hvd.size() * B))
    ]
    spec = (tf.TensorSpec((None, 6), tf.float32), tf.TensorSpec((None,), tf.int32))
    single = tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=spec)
    _compare(
        single.repeat(),
        hvd.shard((x, y), B, shuffle=True, seed=3),
        fit={"steps_per_epoch": len(batches) // 2},
    ) if hvd.size() == 1 else _compare_shuffled(x, y, batches)


def _compare_shuffled(x: Any, y: Any, batches: list) -> None:
    reference = _compile(_classifier(0), keras.optimizers.Adam(0.02))
    start = reference.get_weights()
    for bx, by in batches:
        reference.train_on_batch(bx, by)
    model = _classifier(hvd.rank())
    model.set_weights(start)
    _compile(model, hvd.DistributedOptimizer(keras.optimizers.Adam(0.02)))
    model.fit(hvd.shard((x, y), B, shuffle=True, seed=3), epochs=2, verbose=0)
    for mine, theirs in zip(model.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4)


def check_validation_data() -> None:
    x, y = _labels(_rows(1))
    vx, vy = _labels(2 * hvd.size() * B + 1)
    _compare(
        _global(x, y),
        hvd.shard((x, y), B, shuffle=False),
        validation=(_global(vx, vy), hvd.shard((vx, vy), B)),
    )


def check_steps_per_execution() -> None:
    x, y = _labels(_rows(1))
    _compare(
        _global(x, y),
        hvd.shard((x, y), B, shuffle=False),
        options={"steps_per_execution": 3},
    )


def check_run_eagerly() -> None:
    x, y = _labels(_rows(1))
    _compare(
        _global(x, y), hvd.shard((x, y), B, shuffle=False), options={"run_eagerly": True}, epochs=1
    )


def check_xla() -> None:
    x, y = _labels(_rows(1))
    _compare(
        _global(x, y), hvd.shard((x, y), B, shuffle=False), options={"jit_compile": True}, epochs=1
    )


def check_dataset_of_samples() -> None:
    x, y = _labels(_rows(1))
    samples = tf.data.Dataset.from_tensor_slices((x, y))
    _compare(_global(x, y), hvd.shard(samples, B))


def check_dataset_of_batches() -> None:
    x, y = _labels(_rows(1))
    batched = tf.data.Dataset.from_tensor_slices((x, y)).batch(B).prefetch(1)
    _compare(_global(x, y), hvd.shard(batched))
    _compare(_global(x, y), hvd.shard(batched, B))


def check_dataset_of_unknown_length() -> None:
    x, y = _labels(_rows(1))
    spec = (tf.TensorSpec((6,), tf.float32), tf.TensorSpec((), tf.int32))
    stream = tf.data.Dataset.from_generator(lambda: zip(x, y, strict=True), output_signature=spec)
    # Keras counts one step more in each epoch whose end it did not know; so does the reference.
    single = _global(x, y).filter(lambda *batch: tf.constant(True))
    _compare(single, hvd.shard(stream, B))


def check_infinite_dataset() -> None:
    x, y = _labels(_rows(0))
    _compare(
        _global(x, y).repeat(),
        hvd.shard(tf.data.Dataset.from_tensor_slices((x, y)).repeat(), B),
        fit={"steps_per_epoch": 2},
        epochs=3,
    )


def check_dataset_shuffled_by_shard() -> None:
    rows = _rows(1)
    shard = hvd.shard(tf.data.Dataset.range(rows), B, shuffle=True, seed=1)
    epochs = []
    for _ in range(2):
        own = [i for x, w in shard for i in x.numpy()[w.numpy() > 0]]
        everything = [i for other in hvd.allgather_object(own) for i in other]
        assert sorted(everything) == list(range(rows))
        epochs.append(everything)
    assert epochs[0] != epochs[1] != list(range(rows))


class _Batches(keras.utils.PyDataset):
    def __init__(self, x: Any, y: Any, **options: Any) -> None:
        super().__init__(**options)
        self.x, self.y = x, y

    def __len__(self) -> int:
        return -(-len(self.x) // B)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        rows = slice(index * B, (index + 1) * B)
        return self.x[rows], self.y[rows]


def check_pydataset() -> None:
    for extra in (0, 1, B + 1):
        x, y = _labels(_rows(extra))
        for workers in (1, 3):
            shard = hvd.shard(_Batches(x, y, workers=workers), shuffle=False)
            _compare(_global(x, y), shard, epochs=1)


def check_pydataset_shuffled_reads_every_row_once() -> None:
    rows = _rows(1)
    numbers = np.arange(rows)
    shard = hvd.shard(_Batches(numbers, numbers), seed=2)
    own = [i for x, _, w in shard for i in x.numpy()[w.numpy() > 0]]
    everything = [i for other in hvd.allgather_object(own) for i in other]
    assert sorted(everything) == list(range(rows)) != everything


def check_evaluate_is_exact_without_callbacks() -> None:
    x, y = _labels(_rows(1))
    model = _compile(_classifier(0), hvd.DistributedOptimizer("sgd"))
    expected = model.evaluate(_global(x, y), return_dict=True, verbose=0)
    for sharded in (
        hvd.shard((x, y), B),
        hvd.shard(tf.data.Dataset.from_tensor_slices((x, y)), B),
        hvd.shard(_Batches(x, y)),
    ):
        result = model.evaluate(sharded, return_dict=True, verbose=0)
        assert set(result) == set(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(result[name], value, rtol=1e-5, err_msg=name)
        assert len({tuple(sorted(r.items())) for r in hvd.allgather_object(result)}) == 1


def check_metrics_with_matrices_as_state() -> None:
    x, y = _labels(_rows(1))
    y = (y > 0).astype("float32")[:, None]
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.layers.Input((6,)), keras.layers.Dense(1, activation="sigmoid")]
    )
    model.compile(
        loss="binary_crossentropy",
        metrics=["AUC", "Precision", "Recall", keras.metrics.F1Score(threshold=0.5), "R2Score"],
    )
    expected = model.evaluate(_global(x, y), return_dict=True, verbose=0)
    result = model.evaluate(hvd.shard((x, y), B), return_dict=True, verbose=0)
    for name, value in expected.items():
        np.testing.assert_allclose(result[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def check_predict_in_input_order() -> None:
    x, y = _labels(_rows(1))
    model = _compile(_classifier(0), "sgd")
    expected = model.predict(x, verbose=0)
    for sharded in (
        hvd.shard(x, B),
        hvd.shard((x, y), B),
        hvd.shard(tf.data.Dataset.from_tensor_slices(x), B),
        hvd.shard(_Batches(x, y)),
    ):
        result = model.predict(sharded, verbose=0, callbacks=[keras.callbacks.Callback()])
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def check_several_inputs_and_outputs() -> None:
    x, y = data(_rows(1))
    keras.utils.set_random_seed(0)
    a, b = keras.layers.Input((3,), name="a"), keras.layers.Input((3,), name="b")
    joined = keras.layers.Concatenate()([a, b])
    outputs = {
        "u": keras.layers.Dense(1, name="u")(joined),
        "v": keras.layers.Dense(2, name="v")(joined),
    }
    inputs = {"a": x[:, :3], "b": x[:, 3:]}
    targets = {"u": y[:, :1], "v": y}

    def train(optimizer: Any, source: Any) -> tuple[keras.Model, Any]:
        model = keras.Model({"a": a, "b": b}, outputs)
        copy = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
        copy.compile(optimizer=optimizer, loss={"u": "mse", "v": "mae"}, metrics={"v": ["mse"]})
        return copy, copy.fit(source, verbose=0, epochs=1).history

    reference, expected = train(keras.optimizers.SGD(0.1), _global(inputs, targets))
    model, history = train(
        hvd.DistributedOptimizer(keras.optimizers.SGD(0.1)),
        hvd.shard((inputs, targets), B, shuffle=False),
    )
    for mine, theirs in zip(model.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-4, atol=1e-5, err_msg=name)


def check_unbuilt_model_is_built_and_broadcast_before_the_first_step() -> None:
    x, y = data(_rows(0))

    def build(seed: int) -> keras.Model:
        keras.utils.set_random_seed(seed)
        return keras.Sequential([keras.layers.Dense(5), keras.layers.Dense(2)])

    reference = build(0)
    reference.build((None, 6))
    start = reference.get_weights()
    reference.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    reference.fit(_global(x, y), verbose=0)
    everyone = hvd.broadcast_object(start, 0)
    for source in (hvd.shard((x, y), B, shuffle=False),):
        model = build(hvd.rank())
        model.compile(optimizer=hvd.DistributedOptimizer(keras.optimizers.SGD(0.1)), loss="mse")
        model.fit(source, verbose=0, callbacks=[hvd.callbacks.BroadcastGlobalVariablesCallback(0)])
        del everyone
        for mine, theirs in zip(model.get_weights(), reference.get_weights(), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def check_loss_that_is_no_average_is_refused_where_uneven() -> None:
    x, y = data(_rows(1))
    model = mlp(0)
    loss = keras.losses.MeanSquaredError(reduction="sum")
    model.compile(optimizer=hvd.DistributedOptimizer("sgd"), loss=loss)
    if hvd.size() == 1:
        return
    with pytest.raises(ValueError, match="sum_over_batch_size"):
        model.fit(hvd.shard((x, y), B), verbose=0)
    model.fit(hvd.shard((x, y), B, remainder="drop"), verbose=0)


def check_sync_batch_normalization_equals_one_process() -> None:
    x, y = data(_rows(1))
    x = x * 3 + 50  # a mean that is large beside the deviation

    def build(seed: int, layer: Any) -> keras.Model:
        keras.utils.set_random_seed(seed)
        return keras.Sequential(
            [keras.layers.Input((6,)), layer(momentum=0.5), keras.layers.Dense(2)]
        )

    reference = build(0, keras.layers.BatchNormalization)
    start = reference.get_weights()
    reference.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    reference.fit(_global(x, y), verbose=0, epochs=2)
    model = build(hvd.rank(), hvd.SyncBatchNormalization)
    if hvd.rank() == 0:
        model.set_weights(start)
    model.compile(optimizer=hvd.DistributedOptimizer(keras.optimizers.SGD(0.1)), loss="mse")
    model.fit(
        hvd.shard((x, y), B, shuffle=False),
        epochs=2,
        verbose=0,
        callbacks=[hvd.callbacks.BroadcastGlobalVariablesCallback(0)],
    )
    same_on_all_ranks(model)
    for mine, theirs in zip(model.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-3, atol=2e-3)


def check_custom_loop_with_row_weights() -> None:
    x, y = data(_rows(1))
    reference = mlp(0)
    start = reference.get_weights()
    reference.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    reference.fit(_global(x, y), verbose=0)
    model = mlp(hvd.rank())
    model.set_weights(start)
    optimizer = keras.optimizers.SGD(0.1)
    loss_fn = keras.losses.MeanSquaredError()
    for bx, by, weights in hvd.shard((x, y), B, shuffle=False):
        with tf.GradientTape() as tape:
            loss = loss_fn(by, model(bx, training=True), sample_weight=weights)
        tape = hvd.DistributedGradientTape(tape)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    same_on_all_ranks(model)
    for mine, theirs in zip(model.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)
