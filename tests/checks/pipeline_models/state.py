"""Dropout and moving statistics: one draw and one update for each micro-batch."""

from __future__ import annotations

import keras
import numpy as np
from checks.pipeline_parallel.comparison import fit, pipeline_model, require_close

import hvdkit as hvd


def build() -> keras.Model:
    inputs = keras.Input((6,))
    hidden = inputs
    for _ in range(4):
        hidden = keras.layers.Dense(8, activation="tanh")(hidden)
        hidden = keras.layers.BatchNormalization(momentum=0.5)(hidden)
        hidden = keras.layers.Dropout(0.4)(hidden)
    return keras.Model(inputs, keras.layers.Dense(2)(hidden))


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return (
        rng.normal(size=(24, 6)).astype("float32"),
        rng.normal(size=(24, 2)).astype("float32"),
    )


def check_recomputation_draws_and_counts_once() -> None:
    """Masks of the second forward pass are those of the first; statistics see the rows once."""
    x, y = data()
    results = []
    for recompute in (False, True):
        model = pipeline_model(build, micro_batches=3, recompute=recompute)
        model.compile(keras.optimizers.SGD(0.1), "mse")
        losses, _ = fit(model, x, y, batch_size=12, epochs=3)
        results.append((losses, model.gather_weights(), [v.numpy() for v in model.variables]))
    (losses, weights, variables), (again, weights_again, variables_again) = results
    require_close("losses", again, losses, rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(variables_again, variables, strict=True):
        require_close("variables", mine, theirs, rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(weights_again or [], weights or [], strict=True):
        require_close("weights", mine, theirs, rtol=1e-5, atol=1e-6)


def check_statistics_of_micro_batches() -> None:
    """A moving mean is updated once for each micro-batch, with its rows."""

    def normalizes_first() -> keras.Model:
        inputs = keras.Input((6,))
        hidden = keras.layers.BatchNormalization(momentum=0.5)(inputs)
        for _ in range(7):
            hidden = keras.layers.Dense(4)(hidden)
        return keras.Model(inputs, hidden)

    x, _ = data()
    model = pipeline_model(normalizes_first, micro_batches=3)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    model.fit(x[:12], x[:12, :4], batch_size=12, shuffle=False, verbose=0)
    mean = np.zeros(6)
    for part in np.split(x[:12], 3):
        mean = 0.5 * mean + 0.5 * part.mean(0)
    weights = model.gather_weights()
    if weights is not None:
        require_close("moving mean", weights[2], mean)


def check_dropout_drops_in_training_only() -> None:
    x, y = data()
    model = pipeline_model(build, micro_batches=3)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    outputs = [model.predict(x, verbose=0) for _ in range(2)]
    np.testing.assert_array_equal(*outputs)
    history = model.fit(x, y, batch_size=24, epochs=2, shuffle=False, verbose=0).history["loss"]
    assert history[0] != history[1], "each step draws anew"
    assert history == hvd.allgather_object(history)[0]
