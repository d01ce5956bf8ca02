"""Ways of `compile` and `fit` beside the usual ones."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.marks import long
from checks.monitor.kept import Kept, monitored
from checks.reference import data, mlp, same_on_all_ranks

import hvdkit as hvd
from hvdkit.exchange import LocalSGD, ParameterServer, Sharded


def _fit(
    model: keras.Model, optimizer: Any, steps: int = 6, every: int = 1, **compile: Any
) -> Kept:
    model.compile(hvd.DistributedOptimizer(optimizer), "mse", **compile)
    rows = hvd.shard(data(hvd.size() * 2 * steps), 2)
    kept = monitored(model, rows, every=every)
    same_on_all_ranks(model)
    return kept


@long
def check_loss_scale_and_learning_rate() -> None:
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(rate), initial_scale=8.0, dynamic_growth_steps=4
    )
    kept = _fit(mlp(hvd.rank()), optimizer)
    values = [sample.values for sample in kept.of_steps]
    assert [v["loss_scale"] for v in values] == [8.0, 8.0, 16.0, 16.0, 16.0]
    np.testing.assert_allclose([v["learning_rate"] for v in values], 0.1 * 0.5 ** np.arange(2, 7))
    assert kept.jobs[0].parameters["optimizer"] == "SGD"


@long
def check_accumulated_gradients_have_a_norm_when_they_are_applied() -> None:
    kept = _fit(mlp(hvd.rank()), keras.optimizers.SGD(0.01, gradient_accumulation_steps=2))
    assert ["gradient_norm" in s.values for s in kept.of_steps] == [True, False] * 2 + [True]


def check_a_train_step_of_ones_own() -> None:
    """With a tape, a plain optimizer, and a log that is no metric's."""

    class Own(keras.Sequential):
        def train_step(self, batch: Any) -> dict[str, Any]:
            x, y = batch
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((self(x, training=True) - y) ** 2)
            tape = hvd.DistributedGradientTape(tape)
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply(gradients, self.trainable_variables)
            return {"own": loss}

    keras.utils.set_random_seed(0)
    model = Own([keras.Input((6,)), keras.layers.Dense(2)])
    model.compile(keras.optimizers.SGD(0.01))
    kept = Kept()
    x, y = data(12, seed=hvd.rank())
    monitor = hvd.callbacks.Monitor(2, [kept], alarms=[])
    check = hvd.callbacks.ConsistencyCheck(at_start=False)
    model.fit(x, y, batch_size=2, verbose=0, callbacks=[monitor, check])
    if hvd.rank() == 0:
        norms = [sample.values["gradient_norm"] for sample in kept.of_steps[:-1]]
        assert min(norms) > 0, norms
        assert all(sample.values["compute_seconds"] > 0 for sample in kept.of_steps)
        assert "own" in kept.of_epochs[0].values


@long
def check_steps_that_xla_compiles() -> None:
    """All but the reduction on several ranks; as a whole on one, where nothing can be noted."""
    kept = _fit(mlp(hvd.rank()), keras.optimizers.SGD(0.01), every=2, jit_compile=True)
    split = "compute_seconds" in kept.of_steps[-1].values
    assert split == (hvd.size() > 1)
    assert kept.of_steps[-1].values["step_seconds"] > 0


@long
def check_two_optimizers_in_one() -> None:
    kernels, biases = keras.optimizers.SGD(0.0), keras.optimizers.SGD(0.0)
    optimizer = keras.optimizers.MultiOptimizer(
        lambda variable: biases if variable.name == "bias" else kernels
    )
    norm = _fit(mlp(0), optimizer).of_steps[0].values["gradient_norm"]
    alone = _fit(mlp(0), keras.optimizers.SGD(0.0)).of_steps[0].values["gradient_norm"]
    np.testing.assert_allclose(norm, alone, rtol=1e-5)


@long
def check_sharded_optimizer_that_accumulates_what_is_exchanged() -> None:
    model = mlp(hvd.rank())
    optimizer = keras.optimizers.Adam(0.01, gradient_accumulation_steps=2)
    model.compile(hvd.DistributedOptimizer(optimizer, exchange=Sharded(2)), "mse")
    rows = hvd.shard(data(hvd.size() * 2 * 6), 2)
    assert all("gradient_norm" in s.values for s in monitored(model, rows, every=1).of_steps)


@long
def check_rounds_of_local_updates() -> None:
    model = mlp(hvd.rank())
    optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(0.01), exchange=LocalSGD(3))
    model.compile(optimizer, "mse")
    kept = monitored(model, hvd.shard(data(hvd.size() * 2 * 7), 2), every=3)
    # Six steps in two samples: weights meet once in each.
    sent = [sample.values["sent_bytes"] for sample in kept.of_steps[:2]]
    assert min(sent) >= 4 * model.count_params() / 3


@long
def check_a_parameter_server_is_told_by_its_first_worker() -> None:
    if hvd.size() < 2 or not hvd.mpi_enabled():
        return
    model = mlp(hvd.rank())
    exchange = ParameterServer(1, 0)
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.01), exchange=exchange), "mse")
    model.optimizer.build(model.trainable_variables)
    kept = Kept()
    monitor = hvd.callbacks.Monitor(2, [kept], alarms=[])
    rows = hvd.shard(data(24), 2)
    model.fit(rows, verbose=0, callbacks=[monitor])
    told = [one for one in hvd.allgather_object(kept) if one.jobs]
    assert len(told) == 1
    assert told[0].jobs[0].ranks == 1
    assert told[0].of_steps
