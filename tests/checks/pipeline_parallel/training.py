"""Losses, metrics and weights are those of the unsplit model, with each schedule."""

from __future__ import annotations

import keras
import numpy as np
from checks.marks import long
from checks.pipeline_parallel.comparison import (
    require_same_training,
    seeded,
)

import hvdkit as hvd
from hvdkit.parallel import schedules

ROWS = 37  # in batches of 12: the last has one row


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 6)).astype("float32")
    return x, (x @ rng.normal(size=(6, 2))).astype("float32") + 0.3


def with_skips() -> keras.Model:
    """Eight blocks, with a connection over all of them and regularizers of three kinds."""
    l2 = keras.regularizers.L2(0.01)
    inputs = keras.Input((6,))
    first = keras.layers.Dense(8, activation="tanh", kernel_regularizer=l2)(inputs)
    hidden = first
    for _ in range(5):
        hidden = keras.layers.Dense(8, activation="tanh", bias_regularizer=l2)(hidden)
    hidden = keras.layers.Dense(8, activity_regularizer=l2)(hidden)
    together = keras.layers.Concatenate()([hidden, first, inputs])
    return keras.Model(inputs, keras.layers.Dense(2, kernel_regularizer=l2)(together), name="skips")


def in_a_row() -> keras.Model:
    layers = [keras.layers.Dense(8, activation="relu") for _ in range(8)]
    return keras.Sequential([keras.Input((6,)), *layers, keras.layers.Dense(3)], name="row")


def check_a_short_row() -> None:
    """The shortest training; the others are long tests."""

    def build() -> keras.Model:
        layers = [keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(2)]
        return keras.Sequential([keras.Input((6,)), *layers], name="short")

    x, y = data()
    require_same_training(
        build,
        lambda model: model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse"),
        x[:24],
        y[:24],
        fit_options={"batch_size": 12, "epochs": 5},
        micro_batches=2,
        schedule=schedules.OneForwardOneBackward(),
    )


@long
def check_sgd_with_skip_connections() -> None:
    x, y = data()
    weights = np.random.default_rng(1).uniform(size=ROWS).astype("float32")

    def compile_model(model: keras.Model) -> None:
        model.compile(
            keras.optimizers.SGD(0.05, momentum=0.9),
            "mse",
            metrics=[keras.metrics.MeanAbsoluteError(name="mae")],
            weighted_metrics=["mse"],
        )

    model = require_same_training(
        with_skips,
        compile_model,
        x,
        y,
        fit_options={
            "batch_size": 12,
            "epochs": 3,
            "sample_weight": weights,
            "validation_data": (x[:10], y[:10]),
        },
        micro_batches=4,
        schedule=schedules.GPipe(),
    )
    assert model.kept == 1, "the last batch has one row"
    everywhere = hvd.allgather_object([v.path for v in model.weights])
    assert all(everywhere), "each stage has weights"
    assert len({path for each in everywhere for path in each}) == len(seeded(with_skips).weights)


@long
def check_adam_of_a_sequential_model() -> None:
    x, _ = data()
    labels = np.arange(ROWS) % 3

    def compile_model(model: keras.Model) -> None:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])

    model = require_same_training(
        in_a_row,
        compile_model,
        x,
        labels,
        given=True,
        fit_options={"batch_size": 12, "epochs": 3, "class_weight": {0: 1.0, 1: 2.0, 2: 0.5}},
        micro_batches=6,
        schedule=schedules.OneForwardOneBackward(),
    )
    assert model.name == "row"


@long
def check_interleaved_with_recomputation() -> None:
    x, y = data()
    require_same_training(
        with_skips,
        lambda model: model.compile(keras.optimizers.Adam(0.01), "mse"),
        x,
        y,
        fit_options={"batch_size": 6 * hvd.size(), "epochs": 5, "shuffle": False},
        micro_batches=2 * hvd.size(),
        schedule=schedules.Interleaved(2),
        recompute=True,
    )
