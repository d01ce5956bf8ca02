"""What compression keeps is saved and resumed to the bit; and used in real trainings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.checkpoints.runs import build, require_same_end, shared_folder, train
from checks.compression.methods import METHODS, kept
from checks.marks import long
from checks.reference import data, same_on_all_ranks
from keras import optimizers

import hvdkit as hvd
from hvdkit.exchange import AllReduce, Int8, PowerSGD, TopK
from hvdkit.optimizers.composition import tracked_of

MAKERS: dict[str, Callable[[], Any]] = {
    "power": lambda: PowerSGD(rank=1, start_step=2, min_compression=0.5),
    "top": lambda: TopK(ratio=0.1, momentum=0.9, warmup_steps=6),
    "int8": lambda: Int8(block=8),
}


def _require_resumed(make: Callable[[], Any], *, momentum: float = 0.0) -> None:
    """A training that is stopped goes on to the bit, with all that its exchange keeps."""

    def model() -> keras.Model:
        exchange = AllReduce(make())
        optimizer = optimizers.SGD(0.01, momentum=momentum)
        return build(distributed={"exchange": exchange}, optimizer=optimizer)

    options: dict[str, Any] = {"save_freq": 3, "epochs": 1}
    never, folder = train(shared_folder(), model=model(), **options), shared_folder()
    assert train(folder, stop=5, model=model(), **options) is None
    end = train(folder, model=model(), **options)
    assert never is not None
    assert end is not None
    require_same_end(never, end)
    expected = kept(never.model.optimizer)
    assert any(np.abs(values).max() > 0 for values in expected)
    for mine, other in zip(kept(end.model.optimizer), expected, strict=True):
        np.testing.assert_array_equal(mine, other)


@long
def check_what_is_kept_is_saved_and_resumed() -> None:
    _require_resumed(MAKERS["power"], momentum=0.9)


@long
def check_what_each_method_keeps_is_saved_and_resumed() -> None:
    for name, make in (MAKERS | METHODS).items():
        _require_resumed(make, momentum=0.9 if name in ("power", "int8") else 0.0)


def _network(seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Reshape((6, 1)),
            keras.layers.Conv1D(8, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dense(2),
        ]
    )


def _require_trained(make: Callable[[], Any], options: dict[str, Any], **arguments: Any) -> None:
    x, y = data(32, seed=hvd.rank())
    model = _network(hvd.rank())
    optimizer = hvd.DistributedOptimizer(optimizers.SGD(0.02, **arguments), exchange=make())
    model.compile(optimizer, "mse", **options)
    callbacks = [
        hvd.callbacks.BroadcastGlobalVariablesCallback(0),
        hvd.callbacks.ConsistencyCheck(every_n_steps=1),
    ]
    history = model.fit(x, y, batch_size=4, epochs=3, verbose=0, callbacks=callbacks).history
    assert history["loss"][-1] < history["loss"][0]
    same_on_all_ranks(model)
    shared = [np.array(row.variable) for row in tracked_of(optimizer) if row.same_on]
    everyone = hvd.allgather_object(shared)
    for mine, other in zip(everyone[0], everyone[-1], strict=True):
        np.testing.assert_array_equal(mine, other)


def check_in_fit() -> None:
    make = MAKERS["power"]
    _require_trained(lambda: AllReduce(make()), {"steps_per_execution": 2}, global_clipnorm=1.0)


@long
def check_each_method_in_fit() -> None:
    for make in (MAKERS | METHODS).values():
        for options in ({}, {"run_eagerly": True}, {"steps_per_execution": 4}):
            _require_trained(lambda m=make: AllReduce(m()), options)
        _require_trained(lambda m=make: AllReduce(m(), groups=1), {})


@long
def check_sparse_gradients_and_several_optimizers() -> None:
    """Sparse gradients do not pass through an aggregator, unless they are made dense."""
    for dense in (False, True):
        embedding, kernel = (keras.Variable(np.zeros((12, 8), "float32")) for _ in range(2))
        leaves = [optimizers.SGD(1.0), optimizers.SGD(1.0)]
        several = optimizers.MultiOptimizer(lambda v, k=kernel, o=leaves: o[v is k])
        exchange = AllReduce(PowerSGD(rank=1, start_step=1, min_compression=0.5))
        optimizer = hvd.DistributedOptimizer(several, exchange=exchange, sparse_as_dense=dense)
        optimizer.build([embedding, kernel])
        apply = tf.function(lambda *g, o=optimizer: o.apply([*g]))
        for number in range(3):
            rng = np.random.default_rng([number, hvd.rank()])
            values = tf.constant(rng.normal(size=(2, 8)), tf.float32)
            places = tf.constant([number, 5 + hvd.rank() % 2])
            rows = tf.IndexedSlices(values, places, tf.constant([12, 8]))
            apply(rows, tf.constant(rng.normal(size=(12, 8)), tf.float32))
        residuals = {row.path: np.array(row.variable) for row in tracked_of(optimizer)}
        assert np.abs(residuals[f"residual/{kernel.path}"]).max() > 0.1
        assert (np.abs(residuals[f"residual/{embedding.path}"]).max() > 0.1) == dense
        steps = [int(array) for array in kept(optimizer, "low_rank/steps")]
        assert sorted(steps) == ([3, 3] if dense else [0, 3]), steps
