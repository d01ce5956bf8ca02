"""What differs by design is not compared."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from checks.agreement.at_start import START, fit
from checks.marks import long
from checks.reference import mlp

import hvdkit as hvd

Check = hvd.callbacks.ConsistencyCheck


def _differ(weights: np.ndarray) -> bool:
    first, *others = hvd.allgather_object(weights)
    return any(not np.array_equal(first, other) for other in others)


@long
def check_local_layers_and_their_slots() -> None:
    model = mlp(hvd.rank())
    optimizer = hvd.PartialDistributedOptimizer(
        keras.optimizers.Adam(0.1), local_layers=model.layers[-1], backward_passes_per_step=2
    )
    model.compile(optimizer=optimizer, loss="mse")
    fit(model, START(0), Check(every_n_steps=1), epochs=2)
    assert _differ(model.get_weights()[2])
    assert not _differ(model.get_weights()[0])


@long
def check_variables_that_the_broadcast_leaves_out() -> None:
    model = mlp(hvd.rank())
    model.compile(optimizer=hvd.DistributedOptimizer("sgd"), loss="mse")
    fit(model, START(0, local_variables=model.layers[0].kernel))
    assert _differ(model.get_weights()[0])
    with pytest.raises(hvd.RankMismatchError, match="kernel"):
        fit(model)
    fit(model, Check(local_variables=[model.layers[0].kernel]))


def check_only_the_ranks_of_a_process_set_are_compared() -> None:
    first = hvd.add_process_set([0, 1]) if hvd.size() > 2 else hvd.add_process_set([0])
    mine = hvd.rank() in first.ranks
    model = mlp(5 if mine else 6)
    optimizer: object = keras.optimizers.SGD(0.1)
    if mine:
        optimizer = hvd.DistributedOptimizer(optimizer, process_set=first)
    model.compile(optimizer=optimizer, loss="mse")
    callbacks = [] if mine else [Check(at_start=False)]
    fit(model, *callbacks)
    if mine and len(first.ranks) > 1:
        model.layers[0].kernel.assign(model.layers[0].kernel + float(hvd.rank()))
        with pytest.raises(hvd.RankMismatchError, match="kernel by at most 1 "):
            fit(model)
    hvd.barrier()
    assert hvd.remove_process_set(first)


@long
def check_dropout_and_batch_normalization_pass() -> None:
    keras.utils.set_random_seed(hvd.rank())
    model = keras.Sequential(
        [
            keras.layers.Input((6,)),
            keras.layers.Dense(8),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(2),
        ]
    )
    model.compile(optimizer=hvd.DistributedOptimizer("adam"), loss="mse")
    fit(model, START(0), Check(every_n_steps=1, every_n_epochs=1), epochs=2)
    fit(model)
