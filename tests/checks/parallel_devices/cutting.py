"""Models are cut into parts that compute what the whole model computes."""

from __future__ import annotations

import itertools

import checks.parallel_devices.devices  # noqa: F401  (before TensorFlow starts)
import keras
import numpy as np
import pytest
from checks.marks import long

from hvdkit.graph.balance import balance
from hvdkit.graph.flattening import flattened
from hvdkit.graph.layer_sequence import layer_sequence_of, parts_of
from hvdkit.graph.rebuild import part_model
from hvdkit.parallel.devices.copies import copied

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
    tensors = [None if x is None else keras.ops.convert_to_tensor(x) for x in inputs]
    for model in models:
        tensors = model(tensors)
        tensors = tensors if isinstance(tensors, (list, tuple)) else [tensors]
    return tensors


@long
def check_every_cut_of_a_model_with_skips_gives_its_outputs():
    model = skipping_model()
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=(5, 4)).astype("float32"), rng.normal(size=(5, 3)).astype("float32")]
    expected = [np.array(t) for t in keras.tree.flatten(model(inputs))]
    sequence = layer_sequence_of(model)
    points = sequence.cut_points()
    assert points == list(range(1, len(sequence.steps)))
    for cuts in [(p,) for p in points] + list(itertools.combinations(points, 3))[::4]:
        models = [part_model(part, f"part{i}") for i, part in enumerate(sequence.cut(cuts))]
        for found, value in zip(run_parts(models, inputs), expected, strict=True):
            np.testing.assert_allclose(found, value, rtol=1e-6)
    names = [layer.name for part in sequence.cut(points[1::2]) for layer in part.layers]
    assert set(names) == {"one", "early", "two", "three", "join", "late"}


@long
def check_copies_are_other_layers_with_the_same_names_weights_and_random_states():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.Dropout(0.5)])
    x = np.ones((6, 4), "float32")
    model(x, training=True)  # the seed generator moves on
    before = np.random.get_state()[1].tolist()
    copy = copied(model)
    assert np.random.get_state()[1].tolist() == before
    for new, old in zip(copy.variables, model.variables, strict=True):
        assert old.name == new.name, (old.path, new.path)
        assert new is not old
    np.testing.assert_array_equal(copy(x, training=True), model(x, training=True))
    copy.layers[0].kernel.assign(np.zeros((4, 4)))
    assert np.abs(np.array(model.layers[0].kernel)).sum() > 0
    (part,) = layer_sequence_of(model).cut([])
    same = part_model(part, "same")
    assert same.layers[1] is model.layers[0]


@long
def check_models_that_are_called_twice_stay_together():
    inputs = keras.Input((4,))
    twice = keras.Sequential(
        [layers.Dense(4, name="one"), layers.Dense(4, name="two")], name="twice"
    )
    x = layers.Dense(4, name="first")(inputs)
    x = layers.Dense(4, name="between")(twice(x))
    sequence = flattened(keras.Model(inputs, layers.Dense(1, name="last")(twice(x))))
    names = [sequence.steps[p - 1].operation.name for p in sequence.cut_points()]
    assert names == ["first", "one", "one", "two"], names
    tied = layer_sequence_of(shared_model())
    names = [tied.steps[p - 1].operation.name for p in tied.cut_points()]
    assert names == ["first", "shared", "between", "shared"], names
    with pytest.raises(ValueError, match="no layer 'nowhere'"):
        parts_of(shared_model(), ["nowhere"])
    with pytest.raises(ValueError, match="'last' is the last layer"):
        parts_of(shared_model(), ["last"])


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


def run_sequence(sequence, inputs):
    """The outputs of a sequence that is cut everywhere, for flat inputs."""
    parts = sequence.cut(range(1, len(sequence.steps)))
    models = [part_model(part, f"part{i}") for i, part in enumerate(parts)]
    return run_parts(models, inputs)


def check_nested_models_are_one_block_or_flattened():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.ReLU(), layers.Dense(4)])
    inputs = keras.Input((4,), name="x")
    model = keras.Model({"x": inputs}, layers.Dense(1)(inner(layers.Dense(4)(inputs))))
    assert len(layer_sequence_of(model).steps) == 3
    flat = flattened(model)
    assert len(flat.steps) == 5
    x = np.random.default_rng(1).normal(size=(3, 4)).astype("float32")
    np.testing.assert_allclose(run_sequence(flat, [x])[0], model({"x": x}), rtol=1e-6)
    assert {id(op) for op in (s.operation for s in flat.steps)} >= {id(x) for x in inner.layers}


def block(name):
    """Two inputs in another order than that of their names, of which one is optional; a mask."""
    b = keras.Input((5, 3), name="b")
    a = keras.Input((5, 3), name="a", optional=True)

    class Minus(layers.Layer):
        def call(self, one, other=None):
            return one if other is None else one - 2.0 * other

    x = layers.Dropout(0.5, name="drop")(layers.LSTM(3, return_sequences=True, name="lstm")(b))
    return keras.Model([b, a], Minus(name="minus")(x, a), name=name)


@long
def check_nested_models_get_what_they_are_called_with():
    """By name, with masks and `training`, and without what is optional."""
    ids, other = keras.Input((5,), dtype="int32"), keras.Input((5, 3), optional=True)
    x = layers.Embedding(7, 3, mask_zero=True, name="embed")(ids)
    x = block("one")({"a": layers.Dense(3, name="more")(x), "b": x}, training=True)
    x = block("two")([x, other], training=False)
    model = keras.Model([ids, other], {"out": layers.Dense(1)(x)})
    sequence = flattened(model)
    names = [name for step in sequence.steps for name in sequence.inside[id(step)]]
    assert set(names) == {"one", "two"}, names
    rng = np.random.default_rng(1)
    tokens = np.array([[1, 2, 0, 0, 0], [3, 1, 4, 0, 0]])
    second = rng.normal(size=(2, 5, 3)).astype("float32")
    seed = model.get_layer("one").get_layer("drop").seed_generator.state
    for given in ([tokens, second], [tokens, None]):
        before = np.array(seed)
        expected = model(given)["out"]
        assert not np.array_equal(before, seed), "dropout in training"
        seed.assign(before)
        np.testing.assert_allclose(run_sequence(sequence, given)[0], expected, rtol=1e-6)
    assert sequence.point_after("one") < sequence.point_after("two") < len(sequence.steps)
    assert sequence.point_after("one/lstm") < sequence.point_after("one")
    with pytest.raises(ValueError, match=r"several layers 'lstm': name one of one/lstm, two/lstm"):
        sequence.point_after("lstm")


@long
def check_nested_models_that_convert_stay_whole():
    inner = keras.Sequential([keras.Input((), dtype="int32"), layers.Embedding(5, 3)])
    inputs = keras.Input((1,))
    model = keras.Model(inputs, layers.Dense(1)(inner(inputs)))
    sequence = flattened(model)
    assert [type(s.operation) for s in sequence.steps] == [keras.Sequential, layers.Dense]
    x = np.array([[1.0], [4.0]], "float32")
    np.testing.assert_allclose(run_sequence(sequence, [x])[0], model(x), rtol=1e-6)


def check_what_cannot_be_cut_says_why():
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match=r"Own.*Python code.*functional model.*list of its layers"):
        layer_sequence_of(Own())
    with pytest.raises(ValueError, match=r"not built.*keras.Input"):
        layer_sequence_of(keras.Sequential([layers.Dense(1)]))

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
        copied(model)
    model = keras.Sequential([keras.Input((2,)), Changed(2, name="changed")])
    model.layers[0].scales = 7  # Let get_config hold it.
    with pytest.raises(ValueError, match=r"layer 'changed'.*attribute 'scales'.*copy=True out"):
        copied(model)

    class NeedsMore(layers.Layer):
        def __init__(self, more):
            super().__init__(name="needs")

        def get_config(self):
            return {}

        def call(self, x):
            return x

    model = keras.Sequential([keras.Input((2,)), NeedsMore(1)])
    with pytest.raises(ValueError, match=r"(?s)layer 'needs' \(NeedsMore\).*missing 1.*copy=True"):
        copied(model)


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
