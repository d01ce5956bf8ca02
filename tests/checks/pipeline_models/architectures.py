"""Models that are no simple row of layers."""

from __future__ import annotations

import keras
import numpy as np
from checks.pipeline_parallel.comparison import (
    fit,
    pipeline_model,
    require_close,
    require_same_results,
    require_same_training,
    require_weights,
    seeded,
)

import hvdkit as hvd
from hvdkit.parallel import schedules

ROWS = 37
WORDS, LENGTH = 20, 7


def two_in_two_out() -> keras.Model:
    """The second input comes in late, and the first output leaves early."""
    wide, late = keras.Input((6,), name="wide"), keras.Input((3,), name="late")
    hidden = keras.layers.Dense(8, activation="tanh")(wide)
    early = keras.layers.Dense(2, name="early")(hidden)
    for _ in range(6):
        hidden = keras.layers.Dense(8, activation="tanh")(hidden)
    hidden = keras.layers.Concatenate()([hidden, late])
    outputs = {"early": early, "end": keras.layers.Dense(1, name="end")(hidden)}
    return keras.Model({"wide": wide, "late": late}, outputs)


def check_several_inputs_and_outputs() -> None:
    rng = np.random.default_rng(0)
    x = {name: rng.normal(size=(36, n)).astype("float32") for name, n in (("wide", 6), ("late", 3))}
    y = {name: rng.normal(size=(36, n)).astype("float32") for name, n in (("early", 2), ("end", 1))}

    def compile_model(model: keras.Model) -> None:
        model.compile(
            keras.optimizers.Adam(0.01),
            {"early": "mse", "end": "mae"},
            loss_weights={"early": 0.3, "end": 1.0},
            metrics={"end": ["mse"]},
        )

    require_same_training(
        two_in_two_out,
        compile_model,
        x,
        y,
        fit_options={"batch_size": 12, "epochs": 4},
        micro_batches=4,
    )


def sentences() -> tuple[np.ndarray, np.ndarray]:
    """Rows of words of different lengths, padded with 0."""
    rng = np.random.default_rng(0)
    words = rng.integers(1, WORDS, size=(ROWS, LENGTH))
    words[np.arange(LENGTH) >= rng.integers(2, LENGTH + 1, size=(ROWS, 1))] = 0
    return words, (words.sum(1, keepdims=True) / 50).astype("float32")


def check_masks_cross_the_cuts() -> None:
    """A recurrent layer, after several cuts, gets the mask that the embedding made."""

    def build() -> keras.Model:
        inputs = keras.Input((None,), dtype="int32")
        hidden = keras.layers.Embedding(WORDS, 6, mask_zero=True, name="words")(inputs)
        for i in range(5):
            hidden = keras.layers.Dense(6, activation="tanh", name=f"dense_{i}")(hidden)
        hidden = keras.layers.GRU(5)(hidden)
        return keras.Model(inputs, keras.layers.Dense(1, name="head")(hidden))

    words, y = sentences()
    require_same_training(
        build,
        compile_for_rows_of_an_embedding,
        words,
        y,
        fit_options={"batch_size": 12, "epochs": 3},
        micro_batches=3,
        cuts=["words", "dense_0", "dense_1"][: hvd.size() - 1],
    )


def compile_for_rows_of_an_embedding(model: keras.Model) -> None:
    """Keras applies equal rows one after the other, a distributed optimizer their sum."""
    model.compile(hvd.DistributedOptimizer(keras.optimizers.Adam(0.01)), "mse")


def check_lengths_that_only_the_batch_knows() -> None:
    """Attention over rows whose length differs between batches."""

    def build() -> keras.Model:
        inputs = keras.Input((None,), dtype="int32")
        hidden = keras.layers.Embedding(WORDS, 8)(inputs)
        for _ in range(4):
            seen = keras.layers.MultiHeadAttention(2, 4)(hidden, hidden, use_causal_mask=True)
            hidden = keras.layers.LayerNormalization()(hidden + seen)
        return keras.Model(inputs, keras.layers.Dense(WORDS)(hidden))

    rng = np.random.default_rng(0)
    models = [seeded(build), pipeline_model(build, micro_batches=2)]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    seen = []
    for model in models:
        model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.3)), loss)
        rng = np.random.default_rng(0)
        batches = [rng.integers(0, WORDS, size=(4, n)) for n in (5, 7, 5, 9, 6)]
        seen.append([model.train_on_batch(words, (words + 1) % WORDS) for words in batches])
    require_close("losses", seen[1], seen[0])
    require_weights(models[1], models[0])


def check_convolutions_and_statistics_of_one_micro_batch() -> None:
    """With one micro-batch, BatchNormalization and dropout do what they do in the unsplit model."""

    def build() -> keras.Model:
        inputs = keras.Input((8, 8, 3))
        hidden = inputs
        for _ in range(4):
            hidden = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)(hidden)
            hidden = keras.layers.BatchNormalization()(hidden)
            hidden = keras.layers.ReLU()(hidden)
        hidden = keras.layers.Dropout(0.3)(keras.layers.GlobalAveragePooling2D()(hidden))
        return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(hidden))

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(24, 8, 8, 3)).astype("float32"), np.arange(24) % 3
    model = require_same_training(
        build,
        lambda model: model.compile(
            keras.optimizers.SGD(0.05), "sparse_categorical_crossentropy", metrics=["accuracy"]
        ),
        x,
        y,
        fit_options={"batch_size": 12, "epochs": 5},
        micro_batches=1,
        schedule=schedules.GPipe(),
        rtol=1e-3,
        atol=1e-4,
    )
    assert model.kept == 1


def check_a_shared_layer_inside_a_stage() -> None:
    """A layer that is called twice stays on one stage."""

    def build() -> keras.Model:
        inputs = keras.Input((6,))
        hidden = inputs
        for _ in range(4):
            hidden = keras.layers.Dense(6, activation="tanh")(hidden)
        twice = keras.layers.Dense(6, activation="tanh", name="twice")
        return keras.Model(inputs, keras.layers.Dense(2)(twice(twice(hidden))))

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(24, 6)).astype("float32"), rng.normal(size=(24, 2)).astype("float32")
    models = [seeded(build), pipeline_model(build, micro_batches=3)]
    for model in models:
        model.compile(keras.optimizers.SGD(0.1), "mse")
        fit(model, x, y, batch_size=12, epochs=3)
    require_weights(models[1], models[0])
    require_same_results(models[1], models[0], x, y)
