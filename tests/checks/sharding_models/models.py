"""Models and losses of other kinds: several inputs, not built yet, batch normalization, sums."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from checks.marks import long
from checks.reference import BATCH, data, mlp, same_on_all_ranks
from checks.sharding.reference import global_batches, number_of_rows

import hvdkit as hvd


@long
def check_several_inputs_and_outputs() -> None:
    x, y = data(number_of_rows(1))
    keras.utils.set_random_seed(0)
    a, b = keras.layers.Input((3,), name="a"), keras.layers.Input((3,), name="b")
    joined = keras.layers.Concatenate()([a, b])
    outputs = {
        "u": keras.layers.Dense(1, name="u")(joined),
        "v": keras.layers.Dense(2, name="v")(joined),
    }
    inputs = {"a": x[:, :3], "b": x[:, 3:]}
    targets = {"u": y[:, :1], "v": y}

    def train(optimizer: Any, source: Any) -> tuple[keras.Model, Any]:
        model = keras.Model({"a": a, "b": b}, outputs)
        copy = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
        copy.compile(optimizer=optimizer, loss={"u": "mse", "v": "mae"}, metrics={"v": ["mse"]})
        return copy, copy.fit(source, verbose=0, epochs=1).history

    reference, expected = train(keras.optimizers.SGD(0.1), global_batches(inputs, targets))
    model, history = train(
        hvd.DistributedOptimizer(keras.optimizers.SGD(0.1)),
        hvd.shard((inputs, targets), BATCH, shuffle=False),
    )
    for mine, theirs in zip(model.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-4, atol=1e-5, err_msg=name)


@long
def check_unbuilt_model_is_built_and_broadcast_before_the_first_step() -> None:
    x, y = data(number_of_rows(0))

    def build(seed: int) -> keras.Model:
        keras.utils.set_random_seed(seed)
        return keras.Sequential([keras.layers.Dense(5), keras.layers.Dense(2)])

    reference = build(0)
    reference.build((None, 6))
    reference.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    reference.fit(global_batches(x, y), verbose=0)
    model = build(hvd.rank())
    model.compile(optimizer=hvd.DistributedOptimizer(keras.optimizers.SGD(0.1)), loss="mse")
    broadcast = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
    model.fit(hvd.shard((x, y), BATCH, shuffle=False), verbose=0, callbacks=[broadcast])
    for mine, theirs in zip(model.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


@long
def check_loss_that_is_no_average_is_refused_where_uneven() -> None:
    x, y = data(number_of_rows(1))
    model = mlp(0)
    loss = keras.losses.MeanSquaredError(reduction="sum")
    model.compile(optimizer=hvd.DistributedOptimizer("sgd"), loss=loss)
    if hvd.size() == 1:
        return
    with pytest.raises(ValueError, match="sum_over_batch_size"):
        model.fit(hvd.shard((x, y), BATCH), verbose=0)
    model.fit(hvd.shard((x, y), BATCH, remainder="drop"), verbose=0)


def check_sync_batch_normalization_equals_one_process() -> None:
    x, y = data(number_of_rows(1))
    x = x * 3 + 50  # a mean that is large beside the deviation

    def build(seed: int, layer: Any) -> keras.Model:
        keras.utils.set_random_seed(seed)
        return keras.Sequential(
            [keras.layers.Input((6,)), layer(momentum=0.5), keras.layers.Dense(2)]
        )

    reference = build(0, keras.layers.BatchNormalization)
    start = reference.get_weights()
    reference.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    reference.fit(global_batches(x, y), verbose=0, epochs=2)
    model = build(hvd.rank(), hvd.SyncBatchNormalization)
    if hvd.rank() == 0:
        model.set_weights(start)
    model.compile(optimizer=hvd.DistributedOptimizer(keras.optimizers.SGD(0.1)), loss="mse")
    model.fit(
        hvd.shard((x, y), BATCH, shuffle=False),
        epochs=2,
        verbose=0,
        callbacks=[hvd.callbacks.BroadcastGlobalVariablesCallback(0)],
    )
    same_on_all_ranks(model)
    for mine, theirs in zip(model.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-3, atol=2e-3)
