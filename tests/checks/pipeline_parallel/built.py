"""Every value that a variable is given while a model is built is there in the pipeline."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from checks.marks import long
from checks.pipeline_parallel.comparison import (
    pipeline_of_all_ranks,
    require_close,
    require_weights,
    seeded,
)

import hvdkit as hvd
from hvdkit.parallel import PipelineModel, schedules

layers = keras.layers
ROWS = np.random.default_rng(0).normal(3, 2, size=(24, 6)).astype("float32")
TEXT = np.array([["b"], ["c"], ["a"], ["d"]] * 6)


class Table(layers.Layer):
    """Assigns in `__init__`, reads what it assigned, and assigns in `build`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.table = self.add_weight(shape=(6, 6), initializer="zeros", name="table")
        self.table.assign(np.eye(6, dtype="float32"))
        self.table.assign_add(self.table * 2.0)

    def build(self, shape):
        self.shift = self.add_weight(shape=(6,), name="shift")
        self.shift.assign(self.shift + keras.ops.sum(self.table, 0))

    def call(self, x):
        return keras.ops.matmul(x, self.table) + self.shift


def drawn(shape, dtype=None):
    """An initializer that gives something else each time."""
    return np.random.normal(size=shape).astype(dtype)


def plain() -> keras.Model:
    x = inputs = keras.Input((6,))
    x = layers.Dropout(0.2, seed=1)(
        Table(name="table")(layers.Dense(6, kernel_initializer=drawn)(x))
    )
    for _ in range(4):
        x = layers.Dense(6, activation="tanh", kernel_initializer=drawn)(x)
    return keras.Model(inputs, layers.Dense(2)(x))


def adapted(data: np.ndarray = ROWS) -> keras.Model:
    """With constants outside of variables, in the first stage and in the last."""
    first, last = layers.Normalization(name="first"), layers.Normalization(name="last")
    words = layers.StringLookup(name="words", output_mode="one_hot", vocabulary=["a", "b", "c"])
    first.adapt(data)
    last.adapt(2.0 * data + 1.0)
    x, text = keras.Input((6,)), keras.Input((1,), dtype="string")
    hidden = first(x)
    for _ in range(4):
        hidden = layers.Dense(6, activation="tanh")(hidden)
    hidden = layers.Concatenate()([last(hidden), words(text)])
    return keras.Model([x, text], layers.Dense(2)(hidden))


def changed() -> keras.Model:
    model = plain()
    model.set_weights([weight + 1.0 for weight in model.get_weights()])
    assert np.abs(model.predict_on_batch(ROWS[:2])).max() > 0
    return model


def require_as_plain(build: Callable[[], keras.Model], inputs: object = ROWS) -> PipelineModel:
    pipeline_of_all_ranks()
    whole = seeded(build)
    options = {"micro_batches": 2 * hvd.size(), "schedule": schedules.Interleaved(2)}
    model = seeded(lambda: PipelineModel(build, **options))
    require_weights(model, whole, rtol=0, atol=0)
    assert np.random.normal() == seeded(lambda: (build(), np.random.normal())[1])
    predicted = model.predict(inputs, batch_size=24, verbose=0)
    require_close(build.__name__, predicted, whole.predict(inputs, batch_size=24, verbose=0))
    return model


@long
def check_layers_that_assign_and_initializers_that_draw() -> None:
    require_as_plain(plain)


@long
def check_weights_that_are_changed() -> None:
    require_as_plain(changed)


def halves_added() -> keras.Model:
    """With operations and layers that Keras names by a number."""
    x = keras.Input((6,))
    h = layers.Dense(6)(x)
    return keras.Model(x, layers.Dense(1)(h[:, :3] + h[:, 3:]))


@long
def check_names_that_one_rank_has_given_before() -> None:
    if hvd.rank() == 0:
        halves_added()
    require_as_plain(halves_added)


@long
def check_files_that_are_loaded() -> None:
    folder = Path(hvd.broadcast_object(tempfile.mkdtemp()))
    source = seeded(plain, 9)
    source.compile("adam", "mse")
    source.train_on_batch(ROWS, ROWS[:, :2])
    if hvd.rank() == 0:
        source.save_weights(folder / "source.weights.h5")
        source.save(folder / "source.keras")
    hvd.barrier()

    def loads_weights() -> keras.Model:
        model = plain()
        model.load_weights(folder / "source.weights.h5")
        return model

    def loads_model() -> keras.Model:
        return keras.saving.load_model(folder / "source.keras", {"Table": Table, "drawn": drawn})

    for build in (loads_weights, loads_model):
        model = require_as_plain(build)
        require_weights(model, source, rtol=0, atol=0)


@long
def check_constants_that_layers_compute_with() -> None:
    """Of what was adapted while the model was built, and after weights were loaded."""
    inputs = [ROWS, keras.ops.convert_to_tensor(TEXT)]
    model = require_as_plain(adapted, inputs)
    folder = Path(hvd.broadcast_object(tempfile.mkdtemp()))
    other = seeded(lambda: adapted(5.0 * ROWS - 2.0), 4)
    next(x for x in other.layers if x.name == "words").set_vocabulary(["c", "d", "a"])
    if hvd.rank() == 0:
        other.save(folder / "other.keras")
    hvd.barrier()
    model.load_weights(folder / "other.keras")
    plain_model = seeded(adapted)
    plain_model.load_weights(folder / "other.keras")
    expected = plain_model.predict(inputs, batch_size=24, verbose=0)
    require_close("loaded", model.predict(inputs, batch_size=24, verbose=0), expected)
    model = seeded(lambda: PipelineModel(adapted, micro_batches=2))
    if hvd.rank() == 0:  # as what is outside of variables, it goes to the other stages
        model._partition.unsplit.model.get_layer("words").set_vocabulary(["c", "d", "a"])
    model.scatter_weights(other.get_weights() if hvd.rank() == 0 else None)
    expected = other.predict(inputs, batch_size=24, verbose=0)
    require_close("scattered", model.predict(inputs, batch_size=24, verbose=0), expected)


@long
def check_variables_outside_of_the_model() -> None:
    """What was there before keeps what it is given, and what stays behind has values."""
    kept: list[keras.Model] = []
    outside = keras.Variable(np.zeros(3, "float32"))

    def build() -> keras.Model:
        outside.assign([1.0, 2.0, 3.0])
        teacher = plain()
        teacher.set_weights([np.full(w.shape, 0.5, "float32") for w in teacher.get_weights()])
        kept[:] = [teacher]
        keras.random.normal((2,))  # of the global generator
        return plain()

    pipeline_of_all_ranks()
    seeded(lambda: PipelineModel(build, micro_batches=2))
    np.testing.assert_array_equal(outside, [1.0, 2.0, 3.0])
    assert {float(np.unique(w)[0]) for w in kept[0].get_weights()} == {0.5}
    drawn_next = np.array(keras.random.normal((2,)))
    seeded(build)
    np.testing.assert_array_equal(drawn_next, keras.random.normal((2,)))
