"""`split` divides an existing model by time and memory, and it trains as before."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import checks.parallel_devices.devices  # noqa: F401  (before TensorFlow starts)
import keras
import numpy as np
import pytest
from checks.marks import long
from checks.parallel_devices.comparing import devices_of, rows
from checks.parallel_devices.cutting import shared_model

import hvdkit as hvd

layers = keras.layers
DEVICES = ["CPU:1", "CPU:2", "CPU:3"]
QUIET = {"times": "flops", "verbose": False}


def nested_model() -> keras.Model:
    """Two inputs, a nested model, a tensor that skips parts, and two outputs in a dictionary."""
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    inner = keras.Sequential(
        [keras.Input((8,)), layers.Dense(8, "tanh", name="deep"), layers.Dense(8, "tanh")]
    )
    first = layers.Dense(8, "tanh", name="first")(a)
    x = inner(first) + first
    x = layers.Concatenate()([x, b])
    x = layers.Dense(8, "tanh", name="third")(x)
    return keras.Model(
        {"a": a, "b": b},
        {"y": layers.Dense(2, name="y")(x), "z": layers.Dense(1, name="z")(first)},
    )


def fit(model: keras.Model, data) -> list[float]:
    model.compile(optimizer=keras.optimizers.Adam(0.01, clipnorm=0.5), loss="mse")
    return model.fit(*data, batch_size=8, epochs=3, shuffle=False, verbose=0).history["loss"]


def check_a_split_model_trains_as_the_model_did():
    keras.utils.set_random_seed(3)
    model = nested_model()
    inputs = {"a": rows(20)[0], "b": rows(20, seed=1)[0]}
    targets = {"y": rows(20)[1], "z": rows(20)[1][:, :1]}
    divided = hvd.parallel.split(model, DEVICES, micro_batches=2, copy=True, **QUIET)
    assert set(devices_of(divided.trainable_variables)) == set(DEVICES)
    assert set(devices_of(model.trainable_variables)) == {"CPU:0"}
    np.testing.assert_allclose(fit(divided, (inputs, targets)), fit(model, (inputs, targets)), 1e-4)
    mine, theirs = divided.get_weights(), model.get_weights()
    order = {v.name + str(v.shape) + v.path.split("/")[-2]: i for i, v in enumerate(model.weights)}
    for weight, variable in zip(mine, divided.weights, strict=True):
        place = order[variable.name + str(variable.shape) + variable.path.split("/")[-2]]
        np.testing.assert_allclose(weight, theirs[place], rtol=2e-4, atol=2e-5)


@long
def check_a_split_model_is_saved_and_loaded():
    divided = hvd.parallel.split(nested_model(), DEVICES, **QUIET)
    inputs = {"a": rows(4)[0], "b": rows(4, seed=1)[0]}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.keras"
        divided.save(file)
        loaded = keras.saving.load_model(file)
    assert devices_of(loaded.variables) == devices_of(divided.variables)
    for name, value in divided(inputs).items():
        np.testing.assert_array_equal(loaded(inputs)[name], value)


@long
def check_memory_decides_where_time_does_not():
    model = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(64, name="a"),
            layers.Dense(64, name="b"),
            layers.Dense(64),
        ]
    )
    one = 4 * 4 * (64 * 64 + 64) + 32 * 64 * 4  # weight, gradient, two slots; what it returns
    divided = hvd.parallel.split(model, DEVICES[:2], capacities=[one, None], **QUIET)
    assert devices_of(divided.variables) == ["CPU:1"] * 2 + ["CPU:2"] * 4
    with pytest.raises(ValueError, match=r"'a' does not fit on CPU:1: it needs .* KiB"):
        hvd.parallel.split(model, DEVICES[:2], capacities=[one - 1, None], **QUIET)
    with pytest.raises(ValueError, match=r"part 0 does not fit on CPU:1"):
        hvd.parallel.split(model, DEVICES[:2], after=["b"], capacities=[one, None], **QUIET)
    with pytest.raises(ValueError, match=r"1 capacities for 2 devices"):
        hvd.parallel.split(model, DEVICES[:2], capacities=[one], **QUIET)


def check_what_cannot_be_split_says_why():
    with pytest.raises(ValueError, match=r"'GPU:7' does not exist.*CPU:0"):
        hvd.parallel.split(shared_model(), ["CPU:0", "GPU:7"])
    with pytest.raises(ValueError, match=r"6 parts.*into 5"):
        hvd.parallel.split(shared_model(), ["CPU:0", *DEVICES, *DEVICES[:2]], **QUIET)

    class Steps(keras.Sequential):
        def train_step(self, data):
            return {}

    with pytest.raises(ValueError, match=r"Sequential model with its own train_step"):
        hvd.parallel.split(Steps([keras.Input((2,)), layers.Dense(2)]), DEVICES, **QUIET)

    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match=r"Python code"):
        hvd.parallel.split(Own(), DEVICES)

    # These test jobs run without matplotlib.
    with pytest.raises(ImportError, match=r"pip install 'hvdkit\[plot\]'"):
        hvd.parallel.split(shared_model(), DEVICES[:2], plot="plan.png", **QUIET)


def check_parts_are_balanced_and_the_plan_is_shown():
    wide = [layers.Dense(64, name=f"wide{i}") for i in range(4)]
    model = keras.Sequential([keras.Input((64,)), *wide, layers.Dense(1, name="end")])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plan.png"
        path = sys.path[:]
        sys.path[:] = [folder for folder in path if not folder.endswith("lean")]
        try:
            divided = hvd.parallel.split(model, DEVICES[:2], times="flops", plot=file)
        finally:
            sys.path[:] = path
        assert file.read_bytes().startswith(b"\x89PNG")
    names = [[layer.name for layer in part.layers[1:]] for part in divided.layers[1].parts]
    assert names == [["wide0", "wide1"], ["wide2", "wide3", "end"]]
    measured = hvd.parallel.split(model, DEVICES[:2], times="measure", verbose=False)
    assert len(measured.layers[1].parts) == 2
    asked = hvd.parallel.split(model, DEVICES, after=["wide0"], **QUIET)
    assert devices_of(asked.variables) == ["CPU:1"] * 2 + ["CPU:2"] * 8
