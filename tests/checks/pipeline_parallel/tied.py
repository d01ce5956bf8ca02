"""A weight that several stages use is one weight: gradients are summed, its state is there once."""

from __future__ import annotations

import tempfile
from pathlib import Path

import keras
import numpy as np
from checks.marks import long
from checks.pipeline_parallel.comparison import (
    pipeline_model,
    require_same_training,
    require_weights,
    seeded,
)
from checks.tied_layers import Reversible

import hvdkit as hvd
from hvdkit.parallel import schedules

layers = keras.layers
IDS = np.random.default_rng(0).integers(1, 11, (37, 5))


def block(name: str) -> keras.Model:
    """A nested model; the names of its layers are those of others, too."""
    inputs = keras.Input((5, 6))
    x = layers.Dense(6, activation="tanh", name="inner")(inputs)
    return keras.Model(inputs, layers.Dense(6, activation="tanh", name="outer")(x), name=name)


def language_model() -> keras.Model:
    inputs = keras.Input((5,), dtype="int32")
    embedding = Reversible(11, 6, name="tokens")
    x = embedding(inputs)
    for i in range(4):
        x = block(f"block{i}")(x)
    return keras.Model(inputs, embedding(x, reverse=True), name="language")


def compile_model(model: keras.Model) -> None:
    optimizer = keras.optimizers.Adam(0.01, global_clipnorm=0.3)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))


@long
def check_a_tied_embedding_trains_as_in_one_process() -> None:
    x = IDS[:32]
    for schedule, given in (
        (schedules.OneForwardOneBackward(), True),
        (schedules.Interleaved(2), False),
    ):
        model = require_same_training(
            language_model,
            compile_model,
            x,
            np.roll(x, 1, axis=1),
            given=given,
            fit_options={"batch_size": 8, "epochs": 3},
            micro_batches=2 * hvd.size(),
            schedule=schedule,
        )
        holders = hvd.allgather_object([v.path for v in model.variables if "tokens" in v.path])
        trainers = hvd.allgather_object(
            [v.path for v in model.trainable_variables if "tokens" in v.path]
        )
        assert all(map(bool, (holders[0], holders[-1]))), holders
        assert [len(paths) for paths in trainers] == [1] + [0] * (hvd.size() - 1), trainers


@long
def check_nested_models_are_cut_and_files_are_as_they_were() -> None:
    model = pipeline_model(language_model, micro_batches=2)
    compile_model(model)
    model.fit(IDS, IDS, batch_size=12, verbose=0)
    counts = hvd.allgather_object(sum(int(np.prod(v.shape)) for v in model.trainable_variables))
    assert sum(counts) == seeded(language_model).count_params(), "the tied weight counts once"
    assert max(counts) < 0.75 * sum(counts) or hvd.size() == 1, counts
    folder = Path(hvd.broadcast_object(tempfile.mkdtemp()))
    model.save(folder / "language.keras")
    model.save_weights(folder / "language.weights.h5")
    loaded = keras.models.load_model(folder / "language.keras", {"Reversible": Reversible})
    assert [x.name for x in loaded.layers[2].layers[1:]] == ["inner", "outer"]
    require_weights(model, loaded, rtol=0, atol=0)
    predicted = model.predict(IDS, verbose=0)
    np.testing.assert_allclose(loaded.predict(IDS, verbose=0), predicted, rtol=1e-4, atol=1e-5)
    other = seeded(language_model, 6)
    other.load_weights(folder / "language.weights.h5")
    model = pipeline_model(language_model, micro_batches=2)
    model.load_weights(folder / "language.weights.h5")
    require_weights(model, other, rtol=0, atol=0)
    np.testing.assert_array_equal(model.predict(IDS, verbose=0), predicted)
    cuts = [f"block{i}/inner" for i in range(hvd.size() - 1)]
    cut = pipeline_model(language_model, micro_batches=2, cuts=cuts)
    cut.scatter_weights(other.get_weights() if hvd.rank() == 0 else None)
    np.testing.assert_allclose(cut.predict(IDS, verbose=0), predicted, rtol=1e-4, atol=1e-5)


@long
def check_text_and_shapes_that_are_not_true() -> None:
    """Text comes from the data; what is sent has the shapes and types that it has."""

    class Twice(layers.Layer):
        def call(self, x):
            return keras.ops.concatenate([x, x], axis=1)

        def compute_output_shape(self, shape):
            return shape

    def build() -> keras.Model:
        text = layers.TextVectorization(
            vocabulary=["a", "b", "c"], output_sequence_length=4, name="text"
        )
        inputs = keras.Input((), dtype="string")
        x = Twice()(layers.Embedding(10, 6)(text(inputs)))
        for _ in range(4):
            x = layers.Dense(6, activation="tanh")(x)
        return keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))

    words = keras.ops.convert_to_tensor(["a b", "b c", "c", "a a a", "d b a c"] * 8)
    require_same_training(
        build,
        lambda model: model.compile(keras.optimizers.SGD(0.1), "mse"),
        words,
        np.random.default_rng(1).normal(size=(40, 2)).astype("float32"),
        fit_options={"batch_size": 8, "epochs": 3},
        micro_batches=2,
    )
