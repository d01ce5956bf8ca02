"""Layers divided over devices compute, start, train and are saved as the undivided ones."""

from __future__ import annotations

import json
import re
import tempfile
import zipfile
from pathlib import Path

import checks.parallel_devices.devices  # noqa: F401  (before TensorFlow starts)
import keras
import numpy as np
import pytest
import tensorflow as tf
from checks.marks import long
from checks.parallel_devices.comparing import crossing, devices_of, partitions, rows, train_step_of

import hvdkit as hvd

layers, parallel = keras.layers, hvd.parallel
DEVICES = ["CPU:1", "CPU:2", "CPU:3"]
IDS = np.random.default_rng(5).integers(0, 10, size=(20, 4))
SEQUENCES = np.random.default_rng(6).normal(size=(20, 4, 6)).astype("float32")


def dense(split, **options):
    if split is None:
        return layers.Dense(8, "tanh", **options)
    return parallel.SplitDense(8, DEVICES, split, activation="tanh", **options)


def embedding(split, **options):
    if split is None:
        return layers.Embedding(10, 7, mask_zero=True, **options)
    return parallel.SplitEmbedding(10, 7, DEVICES, split, mask_zero=True, **options)


def model_of(layer, inputs) -> keras.Model:
    entry = keras.Input(inputs.shape[1:], dtype=inputs.dtype.name)
    x = layer(entry)
    if len(x.shape) == 3:
        x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(entry, layers.Dense(2)(x))


def attention_model(layer) -> keras.Model:
    query, value = keras.Input((4, 6)), keras.Input((4, 6))
    mask = keras.Input((4, 4), dtype="bool")
    x = layer(query, value, attention_mask=mask)
    x = layer(x, x, use_causal_mask=True)
    return keras.Model([query, value, mask], layers.Dense(2)(x[:, -1]))


def require_same(whole, divided, place, inputs) -> None:
    """Same weights at first, then same losses and weights."""
    for mine, theirs in zip(
        place(divided).unsplit_weights(), place(whole).get_weights(), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)
    losses = []
    for model in (whole, divided):
        # Adam would make steps of noise, as a key's bias has no effect and no gradient.
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=0.5)
        model.compile(optimizer=optimizer, loss="mse")
        targets = rows(20)[1]
        history = model.fit(inputs, targets, batch_size=8, epochs=2, shuffle=False, verbose=0)
        losses.append(history.history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert losses[0][-1] < 0.99 * losses[0][0]
    layer = place(divided)
    for mine, theirs in zip(layer.unsplit_weights(), place(whole).get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=3e-5)
    assert set(devices_of(layer.trainable_variables)) == set(DEVICES)
    slots = devices_of(divided.optimizer.variables)
    for device in DEVICES:
        own = devices_of(layer.trainable_variables).count(device)
        assert slots.count(device) == own


def put_on(devices, config) -> None:
    """Write other devices into the configuration of a model."""
    for layer in config["layers"]:
        if "devices" in layer["config"]:
            layer["config"]["devices"] = devices


def require_saved_for_any_number(model, inputs) -> None:
    """The file loads, and its weights load with other devices."""
    with tempfile.TemporaryDirectory() as folder:
        file, weights = Path(folder) / "model.keras", Path(folder) / "model.weights.h5"
        model.save(file)
        model.save_weights(weights)
        loaded = keras.saving.load_model(file)
        np.testing.assert_array_equal(loaded(inputs), model(inputs))
        assert devices_of(loaded.variables) == devices_of(model.variables)
        config = model.get_config()
        put_on(["CPU:0", "CPU:1"], config)
        other = keras.Model.from_config(config)
        other.load_weights(weights)
    np.testing.assert_allclose(other(inputs), model(inputs), rtol=1e-4, atol=1e-6)
    assert set(devices_of(other.variables)) == {"CPU:0", "CPU:1"}


def loaded_on(devices, model) -> keras.Model:
    """What comes of the model's file, with other devices written into it."""
    with tempfile.TemporaryDirectory() as folder:
        saved, changed = Path(folder) / "saved.keras", Path(folder) / "changed.keras"
        model.save(saved)
        with zipfile.ZipFile(saved) as source, zipfile.ZipFile(changed, "w") as target:
            for name in source.namelist():
                content = source.read(name)
                if name == "config.json":
                    config = json.loads(content)
                    put_on(devices, config["config"])
                    content = json.dumps(config).encode()
                target.writestr(name, content)
        return hvd.load_model(changed)


def require_same_losses(whole, divided):
    models, losses = [], []
    for build in (whole, divided):
        keras.utils.set_random_seed(13)
        models.append(build())
        models[-1].compile(optimizer=keras.optimizers.Adam(0.02, global_clipnorm=0.5), loss="mse")
        x, y = rows(20)
        history = models[-1].fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
        losses.append(history.history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-4)
    return models


@long
def check_divided_dense_and_embedding_layers_train_as_undivided_ones():
    for make, inputs in ((dense, rows(20)[0]), (embedding, IDS)):
        for split in ("columns", "rows"):
            models = []
            for way in (None, split):
                keras.utils.set_random_seed(11)
                models.append(model_of(make(way), inputs))
            require_same(*models, lambda model: model.layers[1], inputs)
            require_saved_for_any_number(models[1], inputs)


@long
def check_divided_attention_trains_as_undivided():
    mask = np.random.default_rng(0).random((20, 4, 4)) > 0.3
    inputs = [SEQUENCES, SEQUENCES[::-1].copy(), mask]
    models = []
    for make in (
        lambda: layers.MultiHeadAttention(5, 3, value_dim=4),
        lambda: parallel.SplitMultiHeadAttention(5, 3, DEVICES, value_dim=4),
    ):
        keras.utils.set_random_seed(12)
        models.append(attention_model(make()))

    def place(model):
        return next(x for x in model.layers if "attention" in x.name)

    require_same(*models, place, inputs)
    require_saved_for_any_number(models[1], inputs)


@long
def check_divided_attention_gives_scores_and_uses_masks():
    whole = layers.MultiHeadAttention(3, 2)
    x = tf.constant(SEQUENCES)
    whole(x, x)
    divided = parallel.SplitMultiHeadAttention.from_unsplit(whole, DEVICES)
    keep = tf.constant([[True, True, True, False]] * 20)
    for options in (
        {},
        {"use_causal_mask": True},
        {"value_mask": keep, "query_mask": keep},
        {"key": x * 2.0},
    ):
        for mine, theirs in zip(
            divided(x, x, return_attention_scores=True, **options),
            whole(x, x, return_attention_scores=True, **options),
            strict=True,
        ):
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)


def check_divided_layers_come_from_undivided_ones_and_go_back():
    x = tf.constant(rows(5)[0])
    whole = layers.Dense(7, "relu", kernel_regularizer="l2", name="mine")
    expected = whole(x)
    for split in ("columns", "rows"):
        divided = parallel.SplitDense.from_unsplit(whole, DEVICES, split=split)
        np.testing.assert_allclose(divided(x), expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(sum(divided.losses), sum(whole.losses), rtol=1e-5)
        back = divided.unsplit()
        assert type(back) is layers.Dense
        assert back.name == "mine"
        np.testing.assert_array_equal(back(x), expected)
    with pytest.raises(ValueError, match="no weights yet"):
        parallel.SplitDense(4, DEVICES).unsplit()


def check_products_are_on_their_devices_and_no_weight_moves():
    layer = parallel.SplitDense(9, DEVICES, activation="tanh")
    model = model_of(layer, rows(1)[0])
    model.compile(optimizer=keras.optimizers.Adam(0.01, global_clipnorm=0.1), loss="mse")
    step, shapes = train_step_of(model)
    with partitions() as nodes:
        step()
    assert [tuple(v.shape) for v in layer.trainable_variables[::2]] == [(6, 3)] * 3
    for device in DEVICES:
        updates = [n.op for n in nodes[device] if n.op.startswith("Assign")]
        assert len(updates) == 3 * 2, updates
    moved = [(name, shapes[name]) for name, _, _ in crossing(nodes) if name in shapes]
    assert (8, 6) in [shape for _, shape in moved]
    assert not [name for name, shape in moved if shape == (6, 3)], moved


@long
def check_divided_layers_in_parts_of_a_split_model_stay_divided():
    def build(divided):
        options = {"activation": "tanh", "kernel_regularizer": "l2"}
        if divided:
            wide = parallel.SplitDense(8, DEVICES[1:], **options)
        else:
            wide = layers.Dense(8, **options)
        parts = [layers.Dense(6, "tanh"), keras.Sequential([wide, layers.Dense(4)])]
        inputs = keras.Input((6,))
        if divided:
            split = parallel.LayerSplit(parts, ["CPU:0", "CPU:1"], micro_batches=2)
            return keras.Model(inputs, layers.Dense(2)(split(inputs)))
        return keras.Model(inputs, layers.Dense(2)(parts[1](parts[0](inputs))))

    _, model = require_same_losses(lambda: build(False), lambda: build(True))
    places = devices_of(model.trainable_variables)
    # The first part, the two pieces, what follows them in the second part, and what follows both.
    assert places == ["CPU:0"] * 2 + ["CPU:2"] * 2 + ["CPU:3"] * 2 + ["CPU:1"] * 2 + ["CPU:0"] * 2


def check_examples_of_the_documentation_run():
    page = (Path(__file__).parents[3] / "docs/split_over_devices.md").read_text()
    codes = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    here = [code for code in codes if "hvd.init(" not in code]
    assert len(here) == 2
    for code in here:
        exec(code, {"keras": keras, "hvd": hvd})  # the other one is run by test_docs.py


def check_divided_layers_refuse_what_they_cannot_do():
    for make, message in (
        (lambda: parallel.SplitDense(2, DEVICES), r"over 3 devices: it has 2 units"),
        (lambda: parallel.SplitMultiHeadAttention(2, 4, DEVICES), r"it has 2 heads"),
        (lambda: parallel.SplitDense(8, ["GPU:5"]), r"'GPU:5' does not exist"),
        (lambda: parallel.SplitDense(8, DEVICES, "diagonal"), r'"columns" or "rows"'),
        (lambda: parallel.SplitDense(8, DEVICES, "rows")(tf.ones((1, 2))), r"2 features"),
        (
            lambda: parallel.SplitDense(8, DEVICES, kernel_constraint="max_norm"),
            "unsharded weights",
        ),
        (
            lambda: parallel.SplitDense(8, DEVICES, kernel_regularizer="orthogonal_regularizer"),
            "L1, L2 and L1L2",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            make()


@long
def check_training_goes_on_with_any_number_of_devices():
    ids = keras.Input((4,), dtype="int32")
    x = parallel.SplitEmbedding(10, 8, DEVICES, "rows")(ids)
    x = parallel.SplitMultiHeadAttention(4, 2, DEVICES)(x, x)
    x = layers.Flatten()(parallel.SplitDense(8, DEVICES, "columns", activation="tanh")(x))
    model = keras.Model(ids, parallel.SplitDense(2, DEVICES, "rows")(x))
    adam = keras.optimizers.Adam(0.02, use_ema=True)
    model.compile(hvd.DistributedOptimizer(keras.optimizers.LossScaleOptimizer(adam)), loss="mse")
    fit = {"batch_size": 8, "epochs": 2, "shuffle": False, "verbose": 0}
    model.fit(IDS, rows(20)[1], **fit)
    others = [loaded_on(devices, model) for devices in (["CPU:0"], ["CPU:3", "CPU:1"])]
    for each in (model, *others):
        each.fit(IDS, rows(20)[1], **fit)
    for mine, *theirs in zip(*(each.layers for each in (model, *others)), strict=True):
        if isinstance(mine, layers.Flatten | layers.InputLayer):
            continue
        for weights in zip(*(layer.unsplit_weights() for layer in (mine, *theirs)), strict=True):
            for other in weights[1:]:
                np.testing.assert_allclose(other, weights[0], rtol=1e-3, atol=3e-5)


def check_what_looks_at_a_whole_variable_is_refused_for_pieces():
    layer = parallel.SplitDense(4, DEVICES)
    model = keras.Sequential([keras.Input((6,)), layer])
    optimizers = keras.optimizers
    for optimizer, named in (
        (optimizers.Lamb(), "Lamb looks at a whole variable"),
        (optimizers.Adafactor(), "Adafactor looks at a whole variable"),
        (optimizers.Muon(), "Muon looks at a whole variable"),
        (optimizers.SGD(clipnorm=1.0), "clipnorm is of the gradient of a whole variable"),
        (hvd.DistributedOptimizer(optimizers.Lamb()), "Lamb looks at a whole variable"),
    ):
        model.compile(optimizer, loss="mse")
        with pytest.raises(ValueError, match=f"{named}.*{layer.name!r}"):
            model.fit(np.zeros((8, 6)), np.zeros((8, 4)), verbose=0)
