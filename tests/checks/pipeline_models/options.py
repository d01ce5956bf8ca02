"""Losses, optimizers and ways of `compile` and `fit` beside the usual ones."""

from __future__ import annotations

import keras
import numpy as np
from checks.pipeline_parallel.comparison import (
    pipeline_model,
    require_same_training,
    require_weights,
    seeded,
)
from checks.pipeline_parallel.training import ROWS, data

import hvdkit as hvd
from hvdkit.mesh.mesh import current_mesh


def check_sum_and_other_reductions() -> None:
    x, y = data()
    weights = np.random.default_rng(1).uniform(size=ROWS).astype("float32")
    for reduction in ("sum", "mean_with_sample_weight"):
        loss = keras.losses.MeanSquaredError(reduction=reduction)
        models = [seeded(in_a_row_of_two), pipeline_model(in_a_row_of_two, micro_batches=5)]
        for model in models:
            model.compile(keras.optimizers.SGD(0.01), loss)
            model.fit(x, y, sample_weight=weights, batch_size=10, shuffle=False, verbose=0)
        require_weights(models[1], models[0])


def in_a_row_of_two() -> keras.Model:
    layers = [keras.layers.Dense(8, activation="relu") for _ in range(8)]
    return keras.Sequential([keras.Input((6,)), *layers, keras.layers.Dense(2)])


def check_norm_of_all_stages_is_clipped() -> None:
    x, y = data()
    require_same_training(
        in_a_row_of_two,
        lambda model: model.compile(keras.optimizers.SGD(1.0, global_clipnorm=0.05), "mse"),
        x,
        y,
        fit_options={"batch_size": 12, "epochs": 3},
        micro_batches=4,
    )


def check_several_steps_an_execution_and_eagerly() -> None:
    x, y = data()
    for options in ({"steps_per_execution": 3}, {"run_eagerly": True}):

        def compile_model(model: keras.Model, options: dict = options) -> None:
            model.compile(keras.optimizers.SGD(0.05), "mse", **options)

        models = [seeded(in_a_row_of_two), pipeline_model(in_a_row_of_two, micro_batches=2)]
        for model in models:
            compile_model(model)
            model.fit(x, y, batch_size=12, epochs=2, shuffle=False, verbose=0)
        require_weights(models[1], models[0])


def check_explicit_cuts_and_a_frozen_stage() -> None:
    x, y = data()

    def build() -> keras.Model:
        layers = [keras.layers.Dense(8, name=f"layer_{i}", trainable=i > 0) for i in range(8)]
        return keras.Sequential([keras.Input((6,)), *layers, keras.layers.Dense(2)])

    cuts = [f"layer_{i}" for i in range(hvd.size() - 1)]
    model = require_same_training(
        build,
        lambda model: model.compile(keras.optimizers.SGD(0.01), "mse"),
        x,
        y,
        fit_options={"batch_size": 12, "epochs": 3},
        micro_batches=2,
        cuts=cuts,
    )
    if hvd.size() > 1 and current_mesh().pipeline_index == 0:
        assert [layer.name for layer in model.chunks[0].layers[1:]] == ["layer_0"]
        assert not model.trainable_variables
