"""What `fit` notices by itself in the first epoch."""

from __future__ import annotations

import os
from typing import Any

import keras
import pytest
from checks.marks import long
from checks.reference import data, mlp, same_on_all_ranks

import hvdkit as hvd

START = hvd.callbacks.BroadcastGlobalVariablesCallback
MODES: tuple[dict[str, Any], ...] = ({}, {"steps_per_execution": 2}, {"run_eagerly": True})


def fit(model: keras.Model, *callbacks: Any, batch_size: int = 4, **options: Any) -> Any:
    """Train on rows that differ between ranks."""
    x, y = data(16, seed=hvd.rank())
    options = {"epochs": 1, "verbose": 0, **options}
    return model.fit(x, y, batch_size=batch_size, callbacks=list(callbacks), **options)


def _error(model: keras.Model, *callbacks: Any, **options: Any) -> str:
    with pytest.raises(hvd.RankMismatchError) as caught:
        fit(model, *callbacks, **options)
    text = str(caught.value)
    assert len(set(hvd.allgather_object(text))) == 1, "not the same error on every rank"
    return text


def check_plain_optimizer_is_caught_after_the_first_update() -> None:
    for mode in MODES[:2]:
        model = mlp(hvd.rank())
        model.compile(optimizer=keras.optimizers.Adam(0.1), loss="mse", **mode)
        text = _error(model, START(0))
        assert "after the first update (epoch 1, step" in text
        assert "dense" in text
        assert "Adam" in text
        assert "hvd.DistributedOptimizer" in text
        assert "by at most" in text


@long
def check_epochs_of_one_step_are_caught_too() -> None:
    model = mlp(hvd.rank())
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    assert "after the first update" in _error(model, START(0), batch_size=16)


@long
def check_plain_accumulating_optimizer_is_caught_when_it_updates() -> None:
    model = mlp(hvd.rank())
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=3)
    model.compile(optimizer=optimizer, loss="mse")
    text = _error(model, START(0))
    assert "(epoch 1, step 3)" in text, text


def check_missing_broadcast_is_caught_before_the_first_step() -> None:
    model = mlp(hvd.rank())
    model.compile(optimizer=hvd.DistributedOptimizer("sgd"), loss="mse")
    text = _error(model)
    assert "before the first step" in text
    assert "BroadcastGlobalVariablesCallback(0)" in text
    expected = "no value has a majority"  # all ranks differ
    assert expected in text


def check_one_rank_that_differs_is_named() -> None:
    model = mlp(0)
    model.compile(optimizer=hvd.DistributedOptimizer("sgd"), loss="mse")
    if hvd.rank() == 1:
        kernel = model.layers[1].kernel
        kernel.assign(kernel + 0.25)
    text = _error(model)
    assert "by at most 0.25 in 16 of 16 elements" in text
    assert f"{model.layers[1].kernel.path.rsplit('/', 1)[1]} by" in text
    assert ("rank 1 (" in text) == (hvd.size() > 2)


@long
def check_right_training_passes_in_every_mode_and_twice() -> None:
    for mode in MODES[1:]:
        model = mlp(hvd.rank())
        optimizer = hvd.DistributedOptimizer(keras.optimizers.Adam(0.1), backward_passes_per_step=3)
        model.compile(optimizer=optimizer, loss="mse", **mode)
        fit(model, START(0), hvd.callbacks.ConsistencyCheck(every_n_steps=2), epochs=2)
        fit(model)
        same_on_all_ranks(model)


@long
def check_model_that_is_built_by_its_first_batch() -> None:
    def batches() -> Any:
        x, y = data(16, seed=hvd.rank())
        while True:
            yield x, y

    def train(optimizer: Any) -> None:
        keras.utils.set_random_seed(hvd.rank())
        model = keras.Sequential([keras.layers.Dense(3), keras.layers.Dense(2)])
        model.compile(optimizer=optimizer, loss="mse")
        model.fit(batches(), steps_per_epoch=3, verbose=0, callbacks=[START(0)])
        same_on_all_ranks(model)

    train(hvd.DistributedOptimizer("sgd"))
    with pytest.raises(hvd.RankMismatchError, match="first update"):
        train("sgd")


def check_it_can_be_switched_off() -> None:
    def train(*callbacks: Any) -> keras.Model:
        model = mlp(hvd.rank())
        model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
        fit(model, *callbacks)
        return model

    train(hvd.callbacks.ConsistencyCheck(at_start=False))
    os.environ["HVDKIT_CONSISTENCY_CHECK"] = "0"
    try:
        train()
    finally:
        del os.environ["HVDKIT_CONSISTENCY_CHECK"]
