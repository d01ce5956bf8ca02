"""Models are cut into parts that compute what the whole model computes."""

from __future__ import annotations

import itertools

import checks.parallel_devices.devices  # noqa: F401  (before TensorFlow starts)
import keras
import numpy as np
import pytest

from hvdkit.parallel.balance import balance
from hvdkit.parallel.cutting import line_of, parts_of
from hvdkit.parallel.rebuild import flattened, part_model

layers = keras.layers


def skipping_model():
    """Two inputs, one used late; tensors that skip parts; two outputs, one made early."""
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    x = layers.Dense(4, activation="tanh", name="one")(a)
    early = layers.Dense(2, name="early")(x)
    y = layers.Dense(4, activation="tanh", name="two")(x)
    y = layers.Dense(4, activation="tanh", name="three")(y) + x
    y = layers.Concatenate(name="join")([y, b])
    return keras.Model([a, b], {"late": layers.Dense(1, name="late")(y), "early": early})


def shared_model():
    inputs = keras.Input((4,))
    shared = layers.Dense(4, name="shared")
    x = layers.Dense(4, name="first")(inputs)
    x = layers.Dense(4, name="between")(shared(x))
    return keras.Model(inputs, layers.Dense(1, name="last")(shared(x)))


def run_parts(models, inputs):
    tensors = list(inputs)
    for model in models:
        tensors = model(tensors)
        tensors = tensors if isinstance(tensors, (list, tuple)) else [tensors]
    return tensors


def check_every_cut_of_a_model_with_skips_gives_its_outputs():
    model = skipping_model()
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=(5, 4)).astype("float32"), rng.normal(size=(5, 3)).astype("float32")]
    expected = [np.array(t) for t in keras.tree.flatten(model(inputs))]
    line = line_of(model)
    places = line.places()
    assert places == list(range(1, len(line.steps)))
    for cuts in [(p,) for p in places] + list(itertools.combinations(places, 3))[::4]:
        models = [part_model(part, f"part{i}", copy=True) for i, part in enumerate(line.cut(cuts))]
        for found, value in zip(run_parts(models, inputs), expected, strict=True):
            np.testing.assert_allclose(found, value, rtol=1e-6)
    names = [layer.name for part in line.cut(places[1::2]) for layer in part.layers]
    assert set(names) == {"one", "early", "two", "three", "join", "late"}


def check_copies_are_other_layers_with_the_same_names_weights_and_random_states():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.Dropout(0.5)])
    x = np.ones((6, 4), "float32")
    model(x, training=True)  # the seed generator moves on
    before = np.random.get_state()[1].tolist()
    (part,) = line_of(model).cut([])
    copy = part_model(part, "copy", copy=True)
    assert np.random.get_state()[1].tolist() == before
    for new, old in zip(copy.variables, model.variables, strict=True):
        assert old.name == new.name, (old.path, new.path)
        assert new is not old
    np.testing.assert_array_equal(copy([x], training=True), model(x, training=True))
    copy.layers[1].kernel.assign(np.zeros((4, 4)))
    assert np.abs(np.array(model.layers[0].kernel)).sum() > 0
    same = part_model(part, "same")
    assert same.layers[1] is model.layers[0]


def check_layers_that_share_weights_stay_together():
    model = shared_model()
    line = line_of(model)
    assert [line.steps[p - 1].operation.name for p in line.places()] == ["first", "shared"]
    assert line.blocks() == [(0, 1), (1, 4), (4, 5)]
    with pytest.raises(ValueError, match=r"cut after 'between'.*layer 'shared'"):
        parts_of(model, ["between"])
    with pytest.raises(ValueError, match="no layer 'nowhere'"):
        parts_of(model, ["nowhere"])
    with pytest.raises(ValueError, match="'last' is the last layer"):
        parts_of(model, ["last"])


def check_masks_cross_a_cut():
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(7, 3, mask_zero=True, name="embed")(inputs)
    x = layers.Dense(3, name="dense")(x)
    model = keras.Model(inputs, layers.LSTM(2, name="lstm")(x))
    ids = np.array([[1, 2, 0, 0, 0], [3, 1, 4, 0, 0]])
    for name in ("embed", "dense"):
        parts = parts_of(model, [name])
        assert any(parts[0].masked)
        models = [part_model(part, "part") for part in parts]
        np.testing.assert_allclose(run_parts(models, [ids])[0], model(ids), rtol=1e-6)


def check_nested_models_are_one_block_or_flattened():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.ReLU(), layers.Dense(4)])
    inputs = keras.Input((4,), name="x")
    model = keras.Model({"x": inputs}, layers.Dense(1)(inner(layers.Dense(4)(inputs))))
    assert len(line_of(model).steps) == 3
    flat = flattened(model)
    assert len(line_of(flat).steps) == 5
    x = np.random.default_rng(1).normal(size=(3, 4)).astype("float32")
    np.testing.assert_allclose(flat({"x": x}), model({"x": x}), rtol=1e-6)
    assert {id(v) for v in flat.variables} == {id(v) for v in model.variables}


def check_what_cannot_be_cut_says_why():
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match=r"Own.*Python code.*functional model.*list of its layers"):
        line_of(Own())
    with pytest.raises(ValueError, match=r"not built.*keras.Input"):
        line_of(keras.Sequential([layers.Dense(1)]))

    class Changed(layers.Dense):
        def __init__(self, *args, scales=0, **kwargs):
            super().__init__(*args, **kwargs)
            self.scales = scales

        def build(self, shape):
            super().build(shape)
            for _ in range(self.scales):
                self.add_weight(shape=(1,), name="scale")

    model = keras.Sequential([keras.Input((2,)), Changed(2, scales=1, name="changed")])
    with pytest.raises(ValueError, match=r"layer 'changed'.*get_config"):
        part_model(line_of(model).cut([])[0], "copy", copy=True)


def check_balance_finds_the_best_division():
    rng = np.random.default_rng(2)
    for _ in range(30):
        count, parts = int(rng.integers(3, 8)), int(rng.integers(1, 4))
        costs, sizes = rng.integers(1, 20, count), rng.integers(1, 20, count)
        limits = rng.integers(10, 60, parts).tolist()
        slowest = [
            max(costs[a:b].sum() for a, b in itertools.pairwise(ends))
            for inner in itertools.combinations(range(1, count), parts - 1)
            for ends in [(0, *inner, count)]
            if all(
                sizes[a:b].sum() <= limit
                for (a, b), limit in zip(itertools.pairwise(ends), limits, strict=True)
            )
        ]
        if not slowest:
            with pytest.raises(ValueError, match="fit"):
                balance(costs, sizes, parts, limits)
            continue
        found = balance(costs, sizes, parts, limits)
        assert max(costs[a:b].sum() for a, b in found) == min(slowest)
        assert found[0][0] == 0
        assert found[-1][1] == count


def check_balance_names_what_does_not_fit():
    names, devices = ["'one'", "'two'", "'three'"], ["GPU:0", "GPU:1"]
    with pytest.raises(
        ValueError, match=r"'one' does not fit on GPU:0: it needs 9 bytes, and there are 5"
    ):
        balance([1] * 3, [9, 1, 1], 2, [5, 20], names=names, devices=devices)
    with pytest.raises(ValueError, match=r"before 'three', and 4 bytes are left over"):
        balance([1] * 3, [4, 4, 4], 2, [5, 5], names=names, devices=devices)
    with pytest.raises(ValueError, match=r"4 parts.*into 3"):
        balance([1] * 3, [4, 4, 4], 4)
