"""What a divided model keeps of the model that was given, used as it is or copied."""

from __future__ import annotations

import tempfile
from pathlib import Path

import checks.parallel_devices.devices  # noqa: F401  (before TensorFlow starts)
import keras
import numpy as np
import pytest
import tensorflow as tf
from checks.marks import long
from checks.parallel_devices.comparing import devices_of, require_slots_in_place, rows
from checks.tied_layers import Reversible

import hvdkit as hvd

layers = keras.layers
DEVICES = ["CPU:1", "CPU:2"]
QUIET = {"times": "flops", "verbose": False}
RNG = np.random.default_rng(0)
IDS = RNG.integers(1, 11, (20, 5))


class TenTimes(keras.Model):
    """Its steps, losses and metrics are its own, and use its attributes."""

    def __init__(self, *args, factor=10.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.factor = factor
        self.seen = keras.metrics.Sum(name="seen")

    def compute_loss(self, *args, **kwargs):
        return self.factor * super().compute_loss(*args, **kwargs)

    def train_step(self, data):
        logs = super().train_step(data)
        self.seen.update_state(tf.shape(data[0])[0])
        return {**logs, "seen": self.seen.result()}


class Own(layers.Layer):
    """Composite, with a name for its inner layers that no configuration holds."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = layers.Dense(6, "tanh", kernel_regularizer="l2")
        self.norm = layers.BatchNormalization()

    def build(self, shape):
        self.inner.build(shape)
        self.norm.build((*shape[:-1], 6))

    def call(self, x, training=None):
        return self.norm(self.inner(x), training=training)


def tied_model() -> keras.Model:
    inputs = keras.Input((5,), dtype="int32")
    embedding = Reversible(11, 6, name="tokens")
    x = embedding(inputs)
    for i in range(3):
        x = layers.Dense(6, "tanh", name=f"block{i}")(x)
    return keras.Model(inputs, embedding(x, reverse=True), name="tied")


def own_model(kind=keras.Model, **options) -> keras.Model:
    """Composite layers, frozen parts of them, adapted constants, and a Lambda."""
    x = inputs = keras.Input((6,))
    norm = layers.Normalization(name="norm")
    norm.adapt(rows(20)[0] * 3.0 + 1.0)
    x = layers.Lambda(lambda t: t * 2.0, name="twice")(norm(x))
    for i in range(3):
        x = Own(name=f"own{i}")(x)
    model = kind(inputs, layers.Dense(2, name="head")(x), **options)
    model.get_layer("own0").inner.trainable = False
    model.get_layer("own2").norm.gamma.trainable = False
    return model


def seeded(make, seed=3):
    keras.utils.set_random_seed(seed)
    return make()


def fit(model, x, y, loss="mse"):
    model.compile(keras.optimizers.Adam(0.01), loss)
    keras.utils.set_random_seed(5)
    return model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0).history


@long
def check_tied_weights_are_on_one_device_and_train_as_undivided():
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    y = np.roll(IDS, 1, axis=1)
    whole = seeded(tied_model)
    expected = fit(whole, IDS, y, loss)["loss"]
    for options, devices in (
        ({}, DEVICES),
        ({"copy": True}, DEVICES),
        ({"after": ["block0", "block1"], "micro_batches": 2}, [*DEVICES, "CPU:3"]),
    ):
        divided = hvd.parallel.split(seeded(tied_model), devices, **options, **QUIET)
        parts = divided.layers[1].parts
        assert all(any("tokens" in v.path for v in p.variables) for p in (parts[0], parts[-1]))
        (table,) = [v for v in divided.variables if "tokens" in v.path]
        assert devices_of([table]) == ["CPU:1"]
        np.testing.assert_allclose(fit(divided, IDS, y, loss)["loss"], expected, rtol=1e-4)
        trained = {v.path: v.numpy() for v in divided.trainable_variables}
        assert set(trained) == {v.path for v in whole.trainable_variables}
        for variable in whole.trainable_variables:
            np.testing.assert_allclose(trained[variable.path], variable, rtol=2e-4, atol=2e-5)
        require_slots_in_place(divided)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tied.keras"
        divided.save(file)  # as the undivided model
        loaded = keras.saving.load_model(file, {"Reversible": Reversible})
    assert len(loaded.trainable_variables) == len(divided.trainable_variables), "still tied"
    np.testing.assert_allclose(loaded(IDS), divided(IDS), rtol=1e-5)
    layer = hvd.parallel.LayerSplit(parts, DEVICES[:1] * 3)
    with pytest.raises(ValueError, match=r"share weights.*save_weights"):
        layer.get_config()


@long
def check_flags_constants_and_functions_of_layers_are_kept():
    x, y = rows(20)
    whole = seeded(own_model)
    # Flags, statistics and what finalize_state() makes of the weights.
    frozen = [v.path for v in whole.trainable_variables]
    expected = fit(whole, x, y)["loss"]
    for copy in (False, True):
        given = seeded(own_model)
        divided = hvd.parallel.split(given, DEVICES, copy=copy, **QUIET)
        assert len(divided.trainable_variables) == len(frozen)
        np.testing.assert_allclose(divided(x), given(x), rtol=1e-6)
        np.testing.assert_allclose(fit(divided, x, y)["loss"], expected, rtol=1e-4)
        np.testing.assert_allclose(divided.predict(x, verbose=0), whole.predict(x, verbose=0), 1e-4)
        assert (id(given.variables[0]) in {id(v) for v in divided.variables}) != copy
        if copy:
            np.testing.assert_allclose(fit(given, x, y)["loss"], expected, rtol=1e-4)
        else:  # the divided model computes what regularizers add
            with pytest.raises(ValueError, match=r"given to hvd.parallel.split.*copy=True"):
                fit(given, x, y)
            np.testing.assert_allclose(
                given.predict(x, verbose=0), divided.predict(x, verbose=0), 1e-5
            )


@long
def check_methods_of_a_class_of_ones_own_are_kept():
    x, y = rows(20)
    whole = seeded(lambda: own_model(TenTimes, factor=7.0))
    expected = fit(whole, x, y)
    assert expected["seen"] == [20, 20]
    divided = hvd.parallel.split(
        seeded(lambda: own_model(TenTimes, factor=7.0)), DEVICES, micro_batches=1, **QUIET
    )
    assert isinstance(divided, TenTimes)
    assert divided.factor == 7.0
    found = fit(divided, x, y)
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "own.weights.h5"
        divided.save_weights(file)
        plain = seeded(lambda: own_model(TenTimes), 9)
        plain.load_weights(file)  # files are the undivided model's
        np.testing.assert_allclose(plain(x), divided(x), rtol=1e-4, atol=1e-5)
        whole.save_weights(file)
        divided.load_weights(file)
        np.testing.assert_allclose(divided(x), whole(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"attribute 'factor'.*copy=True out"):
        hvd.parallel.split(
            seeded(lambda: own_model(TenTimes, factor=7.0)), DEVICES, copy=True, **QUIET
        )


@long
def check_the_given_model_and_the_divided_one_are_trained_in_turns():
    """They share weights, wherever these are; functions that were traced before are made anew."""

    def make():
        x = inputs = keras.Input((6,), name="x")
        x = layers.Dense(6, "tanh")(layers.Dense(6, "tanh")(x))
        return keras.Model(inputs, [layers.Dense(2, name="a")(x), layers.Dense(2, name="b")(x)])

    x, y = rows(20)
    given = seeded(make)
    losses = {"a": "mse", "b": "mae"}  # by the names of the outputs
    targets = {"a": y, "b": -y}
    first = fit(given, x, targets, losses)
    before = given.predict(x, verbose=0)
    divided = hvd.parallel.split(given, DEVICES, **QUIET)
    again = hvd.parallel.split(given, DEVICES[::-1], **QUIET)
    assert divided.output_names == ["a", "b"]
    for model in (given, divided, again):
        for mine, theirs in zip(model.predict(x, verbose=0), before, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-6)
    seen = [fit(m, x, targets, losses) for m in (divided, given, again)]
    means = [float(np.mean(h["loss"])) for h in (first, *seen)]
    assert means == sorted(means, reverse=True), means
    for mine, theirs in zip(given(x), again(x), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6)
    for mine, theirs in zip(given.predict(x, verbose=0), again(x), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5)


@long
def check_shapes_that_are_not_true_and_optional_inputs():
    class Twice(layers.Layer):
        def call(self, x):
            return keras.ops.concatenate([x, x], axis=1)

        def compute_output_shape(self, shape):
            return shape

    class OrZero(layers.Layer):
        def call(self, x, other=None):
            return x if other is None else x + other

    inputs, other = keras.Input((3, 4)), keras.Input((3, 4), optional=True)
    x = layers.Dense(4, name="first")(Twice()(OrZero()(inputs, other)))
    model = keras.Model([inputs, other], layers.Dense(2)(x))
    data, second = (RNG.normal(size=(5, 3, 4)).astype("float32") for _ in range(2))
    expected = [np.array(model([data, each])) for each in (second, None)]
    for times in ("flops", "measure"):
        divided = hvd.parallel.split(
            model, DEVICES, after=["first"], times=times, verbose=False, copy=times == "flops"
        )
        for each, value in zip((second, None), expected, strict=True):
            np.testing.assert_allclose(divided([data, each]), value, rtol=1e-6)


@long
def check_layers_of_nested_models_may_have_one_name():
    x = inputs = keras.Input((6,), name="x")
    for i in range(2):
        inner = keras.Sequential(
            [keras.Input((6,)), layers.Dense(6, name="one"), layers.Dense(6, name="two")],
            name=f"inner{i}",
        )
        x = inner(x)
    model = keras.Model(inputs, x)
    data = rows(4)[0]
    expected = np.array(model(data))
    divided = hvd.parallel.split(model, DEVICES, after=["inner0/one"], **QUIET)
    assert [len(part.layers) for part in divided.layers[1].parts] == [2, 4]
    np.testing.assert_allclose(divided(data), expected, rtol=1e-6)
    assert [layer.name for layer in model.layers[1].layers] == ["one", "two"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "nested.keras"
        divided.save(file)
        np.testing.assert_allclose(keras.saving.load_model(file)(data), expected, rtol=1e-6)
