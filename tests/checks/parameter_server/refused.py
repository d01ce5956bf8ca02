"""What can't be right is refused by name, on every rank, before training."""

from __future__ import annotations

import tempfile
from typing import Any

import keras
import pytest
import tensorflow as tf
from checks.parameter_server.small import BATCH, compiled
from checks.reference import data, mlp
from keras import optimizers

import hvdkit as hvd
from hvdkit.exchange import ParameterServer


def check_arguments() -> None:
    for servers in (0, True, 1.5, "all"):
        with pytest.raises(ValueError, match="servers is a number of ranks"):
            ParameterServer(servers)  # type: ignore[arg-type]
    for staleness in (-1, True, 1.5):
        with pytest.raises(ValueError, match="staleness is a number of steps"):
            ParameterServer(staleness=staleness)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="leaves none of the"):
        ParameterServer(hvd.size())
    config = ParameterServer(staleness=3).get_config()
    assert config == {"servers": 1, "staleness": 3}
    assert ParameterServer.from_config(config).staleness == 3


def _refused(match: str, model: keras.Model, **options: Any) -> None:
    x, y = data(BATCH)
    with pytest.raises(NotImplementedError, match=match):
        model.fit(x, y, batch_size=BATCH, verbose=0, **options)


def check_optimizers() -> None:
    _refused("use_ema", compiled(mlp(0), ParameterServer(), optimizers.SGD(use_ema=True)))
    if hasattr(optimizers, "ScheduleFreeAdamW"):
        free = optimizers.ScheduleFreeAdamW()
        _refused("ScheduleFreeAdamW", compiled(mlp(0), ParameterServer(), free))
    clipping = optimizers.SGD(global_clipnorm=1.0)
    _refused("global_clipnorm", compiled(mlp(0), ParameterServer(hvd.size() - 1), clipping))


def check_callbacks() -> None:
    backup = hvd.callbacks.BackupAndRestore(tempfile.mkdtemp())
    _refused("BackupAndRestore", compiled(mlp(0), ParameterServer()), callbacks=[backup])
    best = keras.callbacks.EarlyStopping("loss", restore_best_weights=True)
    _refused("restore_best_weights", compiled(mlp(0), ParameterServer()), callbacks=[best])

    warmup = hvd.callbacks.LearningRateWarmupCallback(0.1)
    _refused("LearningRateWarmup", compiled(mlp(0), ParameterServer()), callbacks=[warmup])


def check_local_variables() -> None:
    model = compiled(mlp(0), ParameterServer())
    model.optimizer.register_local_var(model.trainable_variables[0])
    _refused("register_local_var", model)


def check_layers_that_need_all_ranks() -> None:
    model = keras.Sequential(
        [keras.Input((6,)), hvd.SyncBatchNormalization(), keras.layers.Dense(2)]
    )
    _refused("SyncBatchNormalization", compiled(model, ParameterServer()))


def check_more_servers_than_variables() -> None:
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2, use_bias=False)])
    if hvd.size() > 2:
        with pytest.raises(ValueError, match="each server holds at least one"):
            compiled(model, ParameterServer(2)).optimizer.build(model.trainable_variables)


def check_a_loop_of_ones_own() -> None:
    variable = keras.Variable([1.0])
    optimizer = hvd.DistributedOptimizer(optimizers.SGD(), exchange=ParameterServer())
    with pytest.raises(NotImplementedError, match="which model"):
        optimizer.apply([tf.constant([1.0])], [variable])


def check_one_exchange_for_two_models() -> None:
    exchange = ParameterServer()
    first, second = compiled(mlp(0), exchange), compiled(mlp(1), exchange)
    first.optimizer.build(first.trainable_variables)
    with pytest.raises(NotImplementedError, match="one optimizer"):
        second.optimizer.build(second.trainable_variables)
