"""What a seed makes the same on all ranks, and what it makes different."""

from __future__ import annotations

import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from checks.marks import long
from checks.reference import data, same_on_all_ranks

import hvdkit as hvd
from hvdkit import randomness


def _model() -> keras.Model:
    return keras.Sequential(
        [
            keras.layers.Input((64,)),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(3, kernel_initializer="he_normal"),
            keras.layers.GaussianNoise(1.0),
            keras.layers.Dense(2),
        ]
    )


def _draws(seed: int) -> dict[str, np.ndarray]:
    own = hvd.set_random_seed(seed)
    model = _model()
    same_on_all_ranks(model)
    x, y = data(32)
    order = [batch[0].numpy() for batch in hvd.shard((x, y), 4, remainder="drop")]
    everything = tf.concat([hvd.allgather(rows) for rows in order], 0)
    return {
        "weights": np.concatenate([w.ravel() for w in model.get_weights()]),
        "order": everything.numpy(),
        "python": np.array(random.random()),
        "numpy": np.random.rand(3),
        "dropout": model.layers[0](tf.ones([4, 64]), training=True).numpy(),
        "noise": model.layers[2](tf.ones([4, 64]), training=True).numpy(),
        "flips": keras.random.uniform([8]).numpy(),
        "own": np.array(own),
    }


SAME = ("weights", "order", "python", "numpy")
OWN = ("dropout", "noise", "flips", "own")


def check_a_seed_gives_the_same_and_the_different() -> None:
    try:
        first, again, other = _draws(3), _draws(3), _draws(4)
    finally:
        randomness._seed = None
    for name, values in first.items():
        np.testing.assert_array_equal(values, again[name], err_msg=name)
        assert not np.array_equal(values, other[name]), name
        everyone = hvd.allgather_object(values)
        equal = [np.array_equal(everyone[0], theirs) for theirs in everyone[1:]]
        assert all(equal) if name in SAME else not any(equal), name
    assert set(first) == {*SAME, *OWN}


@long
def check_the_broadcast_keeps_what_the_seed_gave() -> None:
    try:
        hvd.set_random_seed(5)
        model = _model()
        before = [np.array(v) for v in model.variables]
        model.compile(optimizer=hvd.DistributedOptimizer(keras.optimizers.SGD(0.0)), loss="mse")
        start = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
        start.set_model(model)
        start.on_train_begin()
    finally:
        randomness._seed = None
    for old, new in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, np.array(new))


def check_seeds_that_differ_or_are_none_are_refused() -> None:
    with pytest.raises(hvd.RankMismatchError, match="random seeds"):
        hvd.set_random_seed(hvd.rank())
    for seed in (-1, 1.5, True):
        with pytest.raises(ValueError, match="a seed is an integer"):
            hvd.set_random_seed(seed)


def check_too_late_to_be_deterministic() -> None:
    with pytest.raises(hvd.HvdkitError, match="comes too late"):
        hvd.init(deterministic=True)
