"""Epochs, callbacks, validation and the end of a training whose workers end at different times."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import keras
import numpy as np
from checks.marks import long
from checks.parameter_server.small import (
    BATCH,
    BeforeSteps,
    compiled,
    is_worker,
    same_everywhere,
)
from checks.reference import data, mlp
from keras import optimizers

import hvdkit as hvd
from hvdkit.exchange import ParameterServer


@long
def check_workers_end_at_different_times() -> None:
    for staleness in (None, 0) if hvd.size() == 3 else (1,):
        exchange = ParameterServer(staleness=staleness)
        model = compiled(mlp(hvd.rank()), exchange)
        x, y = data(3 * BATCH, seed=hvd.rank())
        count = BeforeSteps(lambda step: None)
        epochs = 1 + hvd.rank()
        history = model.fit(
            x, y, batch_size=BATCH, epochs=epochs, verbose=0, callbacks=[count]
        ).history
        if is_worker(exchange):
            assert count.steps == 3 * epochs
            assert len(history["loss"]) == epochs
        else:
            assert count.steps == 0
            assert history == {}
        same_everywhere(model.get_weights())
        assert int(model.optimizer.iterations) == 3  # the first worker's


def _with_statistics(seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [keras.Input((6,)), keras.layers.BatchNormalization(), keras.layers.Dense(2)]
    )


def check_statistics_are_the_mean_of_the_workers() -> None:
    exchange = ParameterServer()
    model = compiled(_with_statistics(0), exchange)
    x, y = data(BATCH, seed=hvd.rank())
    own: list[Any] = []
    keep = keras.callbacks.LambdaCallback(
        on_train_end=lambda logs: own.append(np.array(model.layers[0].moving_mean))
    )
    model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[keep])
    workers = hvd.allgather_object(own[0])[: len(exchange.workers)]
    assert not np.allclose(workers[0], workers[1])
    mean = np.mean(workers, axis=0)
    np.testing.assert_allclose(model.layers[0].moving_mean, mean, rtol=1e-5, atol=1e-7)
    same_everywhere(model.get_weights())


@long
def check_validation_and_callbacks_are_each_workers_own() -> None:
    folder = hvd.broadcast_object(tempfile.mkdtemp())
    file = os.path.join(folder, "best.keras")
    exchange = ParameterServer()
    model = compiled(mlp(hvd.rank()), exchange, metrics=["mae"])
    rows = data(6 * BATCH + 1)
    validation = data(5 * BATCH)
    stops_at = 1 if hvd.rank() == 0 else 100
    stop = hvd.callbacks.EarlyStopping(
        "val_loss", patience=0, baseline=-1.0, start_from_epoch=stops_at
    )
    predicted: list[int] = []
    callbacks = [
        hvd.callbacks.BroadcastGlobalVariablesCallback(0),
        hvd.callbacks.MetricAverageCallback(),
        stop,
        hvd.callbacks.ModelCheckpoint(file, monitor="val_loss", save_best_only=True),
        keras.callbacks.CSVLogger(os.path.join(folder, "log.csv")),
        keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: predicted.append(
                len(model.predict(rows[0], verbose=0))
            )
        ),
    ]
    shard = hvd.shard(rows, BATCH)
    history = model.fit(
        shard,
        epochs=4,
        verbose=0,
        validation_data=hvd.shard(validation, BATCH),
        callbacks=callbacks,
    ).history
    expected = {0: 3}.get(hvd.rank(), 4) if is_worker(exchange) else 0
    assert len(history.get("val_mae", [])) == expected, history
    assert predicted == [len(rows[0])] * expected
    hvd.barrier()
    assert os.path.exists(file)
    keras.models.load_model(file).predict(rows[0], verbose=0)
    with open(os.path.join(folder, "log.csv")) as log:
        assert len(log.readlines()) == 1 + 3  # of the first worker
    # After it, servers are ranks like others.
    result = model.evaluate(hvd.shard(validation, BATCH), verbose=0)
    np.testing.assert_allclose(result, model.evaluate(*validation, verbose=0), rtol=1e-5)
    same_everywhere([result])
    assert set(hvd.allgather_object(shard.epoch)) == {3}  # rank 0's


@long
def check_a_step_that_is_not_finite_is_left_out_by_its_worker() -> None:
    for staleness in (None, 0):
        exchange = ParameterServer(staleness=staleness)
        model = mlp(0)
        model.compile(
            hvd.DistributedOptimizer(
                optimizers.SGD(0.05), exchange=exchange, nonfinite=hvd.nonfinite.Skip()
            ),
            "mse",
        )
        x, y = data(3 * BATCH, seed=hvd.rank())
        if hvd.rank() == 0:
            x[BATCH + 1] = np.nan
        model.fit(x, y, batch_size=BATCH, epochs=2, shuffle=False, verbose=0)
        assert all(np.isfinite(weight).all() for weight in model.get_weights())
        skipped = hvd.allgather_object(model.optimizer.nonfinite_steps)
        assert skipped == [2] + [0] * (hvd.size() - 1), skipped
