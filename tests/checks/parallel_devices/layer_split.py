"""LayerSplit trains as the same layers on one device do, and everything is where it belongs."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

import checks.parallel_devices.devices  # noqa: F401  (before TensorFlow starts)
import keras
import numpy as np
import pytest
import tensorflow as tf
from checks.marks import long
from checks.parallel_devices.comparing import (
    crossing,
    devices_of,
    partitions,
    require_same_training,
    require_slots_in_place,
    rows,
    train,
    train_step_of,
)

import hvdkit as hvd
from hvdkit.parallel.devices.placed_part import PlacedPart
from hvdkit.parallel.devices.staged_execution import run

layers, optimizers = keras.layers, keras.optimizers
DEVICES = ["CPU:1", "CPU:2", "CPU:3"]
OPTIMIZERS = [
    lambda: optimizers.SGD(0.1, momentum=0.9, clipnorm=0.1),
    lambda: optimizers.Adam(0.01, global_clipnorm=0.1, weight_decay=0.01, use_ema=True),
    lambda: optimizers.Adafactor(0.05, clipnorm=0.1),
]


def parts(width: int = 8, **options) -> list:
    first = [layers.Dense(width, "tanh", **options), layers.Dense(width, "tanh")]
    return [keras.Sequential(first), layers.Dense(width, "tanh"), layers.Dense(2)]


def whole(make=parts, shape=(6,), dtype="float32") -> keras.Model:
    inputs = keras.Input(shape, dtype=dtype)
    x = inputs
    for part in make():
        x = part(x)
    return keras.Model(inputs, x)


def split(make=parts, shape=(6,), dtype="float32", **options) -> keras.Model:
    inputs = keras.Input(shape, dtype=dtype)
    layer = hvd.parallel.LayerSplit(make(), DEVICES, **options)
    return keras.Model(inputs, layer(inputs))


@long
def check_trains_as_on_one_device_with_slots_on_the_parts_device():
    for number, optimizer in enumerate(OPTIMIZERS):
        _, model = require_same_training(
            whole, lambda n=number: split(micro_batches=1 + n % 2), optimizer
        )
        places = devices_of(model.trainable_variables)
        assert places == ["CPU:1"] * 4 + ["CPU:2"] * 2 + ["CPU:3"] * 2
        require_slots_in_place(model)


@long
def check_last_batches_of_any_size_train_as_on_one_device():
    for count in (11, 17):  # last batches of 3 and 1 rows in 4 micro-batches
        require_same_training(
            whole, lambda: split(micro_batches=4), lambda: optimizers.SGD(0.1), data=rows(count)
        )


def check_operations_are_on_the_parts_device_and_no_weight_moves():
    soft = tf.config.get_soft_device_placement()
    tf.config.set_soft_device_placement(False)
    try:
        for micro_batches in (1, 4):
            model = split(lambda: parts(7, kernel_regularizer="l2"), micro_batches=micro_batches)
            model.compile(optimizer=OPTIMIZERS[1](), loss="mse")
            step, shapes = train_step_of(model)
            with partitions() as nodes:
                step()
            for device, tanhs in (("CPU:1", 2), ("CPU:2", 1)):
                backward = [n for n in nodes[device] if n.op == "TanhGrad"]
                assert len(backward) == tanhs * micro_batches
            assert not [n for n in nodes["CPU:0"] if n.op == "TanhGrad"]
            for device, variables in (("CPU:1", 4), ("CPU:2", 2), ("CPU:3", 2)):
                updates = [n.op for n in nodes[device] if n.op.startswith("Assign")]
                # Adam: two slots, weight decay, the update; EMA's variable
                assert len(updates) == 5 * variables, updates
            moved = crossing(nodes)
            sizes = {name: shapes[name] for name, _, _ in moved if name in shapes}
            weights = {tuple(v.shape) for v in model.trainable_variables}
            assert len(sizes) > 10
            assert not [(n, s) for n, s in sizes.items() if s in weights], sizes
            pairs = {(a, b) for _, a, b in moved if "CPU:0" not in (a, b)}
            neighbours = {("CPU:1", "CPU:2"), ("CPU:2", "CPU:3")}
            assert pairs == neighbours | {(b, a) for a, b in neighbours}
    finally:
        tf.config.set_soft_device_placement(soft)


def check_micro_batches_are_on_different_devices_at_the_same_time():
    """The second part, on the first micro-batch, and the first one, on the second, meet."""
    both = threading.Barrier(2)

    def meet(x):
        both.wait(timeout=60)
        return x

    class Meets(layers.Layer):
        def __init__(self, micro_batch):
            super().__init__()
            self.calls, self.micro_batch = 0, micro_batch

        def call(self, x):
            self.calls += 1
            if self.calls != self.micro_batch:
                return x + 1.0
            # Not stateful: TensorFlow would let one wait for the other.
            return tf.ensure_shape(tf.numpy_function(meet, [x], x.dtype, stateful=False), x.shape)

    placed = [PlacedPart(Meets(2), "CPU:1"), PlacedPart(Meets(1), "CPU:2")]
    pipeline = tf.function(lambda x: run(placed, x, 2)[0], autograph=False)
    np.testing.assert_allclose(pipeline(tf.zeros((6, 2))), np.ones((6, 2)))


@long
def check_embeddings_masks_and_integers_go_through():
    def make():
        return [
            layers.Embedding(11, 6, mask_zero=True),
            layers.Dense(5, "tanh"),
            keras.Sequential([layers.GlobalAveragePooling1D(), layers.Dense(2)]),
        ]

    rng = np.random.default_rng(3)
    ids = rng.integers(1, 11, size=(20, 7))
    ids[:, 4:] *= rng.integers(0, 2, size=(20, 1))
    require_same_training(
        lambda: whole(make, (7,), "int32"),
        lambda: split(make, (7,), "int32", micro_batches=2),
        lambda: optimizers.Adam(0.05, clipnorm=0.5),
        data=(ids, np.stack([(ids == 3).sum(1), ids[:, 0] > 4], axis=-1).astype("float32")),
    )
    # A mask that comes out at the end is for the loss.
    layer = hvd.parallel.LayerSplit(make()[:2], DEVICES, micro_batches=2)
    np.testing.assert_array_equal(layer(ids)._keras_mask, ids != 0)


@long
def check_losses_that_layers_add_count_as_on_one_device():
    def make():
        return parts(activity_regularizer="l2", kernel_regularizer=keras.regularizers.L2(0.02))

    require_same_training(lambda: whole(make), lambda: split(make, micro_batches=2), OPTIMIZERS[0])


def check_dropout_draws_as_on_one_device_and_inference_has_none():
    def make():
        return [layers.Dense(8, "tanh"), layers.Dropout(0.3), layers.Dense(2)]

    one, many = require_same_training(
        lambda: whole(make), lambda: split(make), lambda: optimizers.Adam(0.02)
    )
    x, _ = rows(9)
    np.testing.assert_allclose(
        many.predict(x, verbose=0), one.predict(x, verbose=0), rtol=1e-3, atol=1e-5
    )


def check_batch_normalization_stays_finite_with_fewer_rows_than_micro_batches():
    def make():
        return [layers.Dense(8), layers.BatchNormalization(), layers.Dense(2)]

    model, losses = train(lambda: split(make, micro_batches=4), OPTIMIZERS[0], data=rows(9))
    assert np.isfinite(losses).all()
    assert all(np.isfinite(w).all() for w in model.get_weights())


@long
def check_several_inputs_and_outputs_and_gradients_of_inputs():
    class Two(layers.Layer):
        def call(self, inputs):
            a, b = inputs
            return [a * b, tf.tanh(b), a]

    class Three(layers.Layer):
        def call(self, inputs):
            product, tanh, a = inputs
            return {"sum": product + a, "tanh": tanh}

    layer = hvd.parallel.LayerSplit([Two(), Three()], DEVICES, micro_batches=2)
    a, b = tf.random.normal((5, 3)), tf.random.normal((5, 3))
    for wrap in (lambda f: f, tf.function):

        @wrap
        def gradients(a, b):
            with tf.GradientTape() as tape:
                tape.watch([a, b])
                outputs = layer([a, b])
                loss = tf.reduce_sum(outputs["sum"] ** 2) + tf.reduce_sum(outputs["tanh"])
            return tape.gradient(loss, [a, b])

        of_a, of_b = gradients(a, b)
        np.testing.assert_allclose(of_a, 2 * a * (b + 1) ** 2, rtol=1e-5)
        np.testing.assert_allclose(of_b, 2 * a**2 * (b + 1) + 1 - tf.tanh(b) ** 2, rtol=1e-4)


@long
def check_models_that_keras_builds_by_trying_them_out_have_weights_in_place():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.first = hvd.parallel.SplitDense(4, DEVICES[:2])
            self.rest = hvd.parallel.LayerSplit([layers.Dense(4), layers.Dense(2)], DEVICES)

        def call(self, x):
            return self.rest(self.first(x))

    model, _ = train(Net, lambda: optimizers.SGD(0.1, momentum=0.9))
    places = ["CPU:1"] * 2 + ["CPU:2"] * 2 + ["CPU:1"] * 2 + ["CPU:2"] * 2
    assert devices_of(model.trainable_variables) == places
    require_slots_in_place(model)


@long
def check_parts_without_gradients_are_passed_by():
    def make():
        codes = layers.Lambda(lambda x: tf.cast(x > 0, tf.int32))
        return [codes, layers.Embedding(2, 3), layers.Dense(2)]

    one, many = whole(make), split(make)
    many.set_weights(one.get_weights())
    found = []
    for model in (one, many):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(tf.constant(rows(5)[0])) ** 2)
        gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
        found.append([tf.convert_to_tensor(g) for g in gradients])
    for mine, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


@long
def check_mixed_precision_trains_as_on_one_device():
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        one, expected = train(whole, lambda: optimizers.SGD(0.1))
        many, found = train(lambda: split(micro_batches=2), lambda: optimizers.SGD(0.1))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    np.testing.assert_allclose(found, expected, rtol=1e-2)
    for mine, theirs in zip(many.get_weights(), one.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-2, atol=2e-3)


def check_a_saved_model_trains_on_with_its_slots_in_place():
    model, _ = train(split, OPTIMIZERS[1])
    x, y = rows(8)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.keras"
        model.save(file)
        loaded = keras.saving.load_model(file)
    assert devices_of(loaded.variables) == devices_of(model.variables)
    assert devices_of(loaded.optimizer.variables) == devices_of(model.optimizer.variables)
    for each in (model, loaded):
        each.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
    for mine, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6)


@long
def check_a_saved_model_comes_back_where_its_devices_do_not_exist():
    layer = split().layers[1]
    for devices, expected in (
        (["GPU:0", "GPU:1", "GPU:2"], ["CPU:0", "CPU:1", "CPU:2"]),
        (["CPU:3", "CPU:3", "CPU:3"], ["CPU:3"] * 3),
    ):
        config = {**layer.get_config(), "devices": devices}
        assert list(hvd.parallel.LayerSplit.from_config(config).devices) == expected


def check_refusals_say_what_to_do():
    dense = layers.Dense
    for devices, message in (
        (["CPU:0", "CPU:9"], r"'CPU:9' does not exist.*CPU:0, CPU:1, CPU:2, CPU:3"),
        ([], "give a list of devices"),
        ("CPU:0", "give a list of devices"),
    ):
        with pytest.raises(ValueError, match=message):
            hvd.parallel.LayerSplit([dense(2), dense(2)], devices)
    with pytest.raises(ValueError, match=r"keras.layers.Layer"):
        hvd.parallel.LayerSplit([dense(2), tf.tanh])
    with pytest.raises(ValueError, match="above 0"):
        hvd.parallel.LayerSplit([dense(2)], micro_batches=0)
    with (
        pytest.raises(ValueError, match=r"MirroredStrategy.*copies every variable"),
        tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope(),
    ):
        hvd.parallel.LayerSplit([dense(2), dense(2)])
    model = split(micro_batches=3)
    model.compile("sgd", "mse")
    x, y = rows(20)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(10, drop_remainder=True)
    for fit in (
        lambda: model.fit(x, y, batch_size=10),
        lambda: model.fit(data),
        lambda: model.fit(hvd.shard((x, y), 10)),
    ):
        with pytest.raises(ValueError, match=r"10 rows.*micro_batches=3"):
            fit()
