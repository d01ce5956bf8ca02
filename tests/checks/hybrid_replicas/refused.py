"""What can't be right on ranks of several devices is refused by name, on every rank."""

from __future__ import annotations

from typing import Any

import keras
import pytest
import tensorflow as tf
from checks.hybrid_replicas.comparing import BATCH, mirrored, on_replicas
from checks.marks import long
from checks.reference import data, mlp

import hvdkit as hvd

exchange, optimizers = hvd.exchange, keras.optimizers


@long
def check_what_works_on_weights():
    over_mpi = [
        lambda: {"exchange": exchange.Gossip()},
        lambda: {"exchange": exchange.ParameterServer()},
    ]
    for make in (
        lambda: {"exchange": exchange.Sharded()},
        lambda: {"exchange": exchange.LocalSGD(every=2)},
        lambda: {"nonfinite": hvd.nonfinite.Skip()},
        *(over_mpi if hvd.mpi_enabled() else ()),
    ):
        options = make()
        model = on_replicas(mlp, lambda o=options: hvd.DistributedOptimizer("adam", **o))
        with pytest.raises(NotImplementedError, match="one rank for each device"):
            model.fit(hvd.shard(data(16), BATCH), verbose=0)


def check_averages_that_overwrite_weights():
    model = on_replicas(
        mlp,
        lambda: hvd.DistributedOptimizer(optimizers.Adam(use_ema=True, ema_overwrite_frequency=2)),
    )
    with pytest.raises(NotImplementedError, match="ema_overwrite_frequency"):
        model.fit(hvd.shard(data(16), BATCH), verbose=0)


def check_xla():
    model = on_replicas(mlp, lambda: hvd.DistributedOptimizer("adam"), jit_compile=True)
    with pytest.raises(ValueError, match="jit_compile"):
        model.fit(hvd.shard(data(16), BATCH), verbose=0)


def check_an_optimizer_from_outside_the_scope():
    optimizer = hvd.DistributedOptimizer("adam")
    with mirrored().scope():
        model = mlp(0)
        model.compile(optimizer, "mse")
    with pytest.raises(ValueError, match="outside the scope"):
        model.fit(hvd.shard(data(16), BATCH), verbose=0)


def check_several_steps_in_an_execution():
    model = on_replicas(mlp, lambda: hvd.DistributedOptimizer("adam"), steps_per_execution=2)
    with pytest.raises(NotImplementedError, match="steps_per_execution=2"):
        model.fit(hvd.shard(data(16), BATCH), verbose=0)
    with pytest.raises(NotImplementedError, match="steps_per_execution=2"):
        model.evaluate(hvd.shard(data(16), BATCH), verbose=0)


def check_other_numbers_of_devices():
    strategy = mirrored() if hvd.rank() else tf.distribute.get_strategy()
    with strategy.scope():
        model = mlp(0)
        model.compile(hvd.DistributedOptimizer("adam"), "mse")
    x, y = data(12)
    with pytest.raises(hvd.RankMismatchError, match="1 on rank 0, 2 on rank 1"):
        model.fit(x, y, batch_size=6, verbose=0)


def check_a_tape_and_an_optimizer_that_is_not_built():
    strategy = mirrored()
    with strategy.scope():
        model = mlp(0)
        optimizer = hvd.DistributedOptimizer("sgd")
    x, y = map(tf.constant, data(4))

    def step(tape: Any) -> None:
        with tape:
            loss = tf.reduce_mean(tf.square(model(x) - y))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)

    with pytest.raises(NotImplementedError, match="DistributedGradientTape"):
        strategy.run(lambda: step(hvd.DistributedGradientTape(tf.GradientTape())))
    with pytest.raises(ValueError, match="call optimizer"):
        strategy.run(lambda: step(tf.GradientTape()))
