"""hvdkit's callbacks on real ranks."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from checks.marks import long
from checks.reference import data, mlp, same_on_all_ranks

import hvdkit as hvd

O = keras.optimizers  # noqa: E741


def shared_folder() -> Path:
    """A folder that all ranks know."""
    return Path(hvd.broadcast_object(tempfile.mkdtemp() if hvd.rank() == 0 else None))


def fit(model: keras.Model, callbacks: list[Any], epochs: int = 2, **options: Any) -> Any:
    x, y = data(16, seed=hvd.rank())
    return model.fit(x, y, batch_size=4, epochs=epochs, verbose=0, callbacks=callbacks, **options)


@long
def check_broadcast_sends_model_and_optimizer_from_any_root() -> None:
    for root in range(hvd.size()):
        model = mlp(10 + hvd.rank())
        optimizer = hvd.DistributedOptimizer(O.Adam(0.0))
        model.compile(optimizer=optimizer, loss="mse")
        optimizer.build(model.trainable_variables)
        optimizer.iterations.assign(100 + hvd.rank())
        optimizer.variables[2].assign(tf.ones_like(optimizer.variables[2].value) * hvd.rank())
        expected = hvd.broadcast_object(model.get_weights(), root)
        fit(model, [hvd.callbacks.BroadcastGlobalVariablesCallback(root)], epochs=1)
        for mine, theirs in zip(model.get_weights(), expected, strict=True):
            np.testing.assert_array_equal(mine, theirs)
        assert int(optimizer.iterations) == 100 + root + 4


@long
def check_broadcast_leaves_local_variables() -> None:
    model = mlp(10 + hvd.rank())
    model.compile(optimizer=hvd.DistributedOptimizer(O.SGD(0.0)), loss="mse")
    own = model.get_weights()
    local = model.layers[0].kernel
    fit(model, [hvd.callbacks.BroadcastGlobalVariablesCallback(0, local_variables=local)])
    np.testing.assert_array_equal(model.get_weights()[0], own[0])
    if hvd.rank() > 0:
        assert not np.array_equal(model.get_weights()[2], own[2])


@long
def check_broadcast_keeps_dropout_different() -> None:
    def masks() -> np.ndarray:
        keras.utils.set_random_seed(5)
        dropout = keras.layers.Dropout(0.5)
        model = keras.Sequential([keras.layers.Input((64,)), dropout, keras.layers.Dense(1)])
        model.compile(optimizer=hvd.DistributedOptimizer(O.SGD(0.0)), loss="mse")
        model.fit(
            np.ones((4, 64), "float32"),
            np.ones((4, 1), "float32"),
            verbose=0,
            callbacks=[hvd.callbacks.BroadcastGlobalVariablesCallback(0)],
        )
        return np.array(dropout(tf.ones([4, 64]), training=True))

    first, second = masks(), masks()
    np.testing.assert_array_equal(first, second)
    everyone = hvd.allgather_object(first)
    for rank in range(1, hvd.size()):
        assert not np.array_equal(everyone[0], everyone[rank])


@long
def check_broadcast_sends_lookup_tables() -> None:
    words = np.array([["a"], ["b"]])
    vocabulary = ["a", "b"] if hvd.rank() == 0 else ["b", "a"]
    lookup = keras.layers.StringLookup(vocabulary=vocabulary, output_mode="one_hot")
    text = keras.Input((1,), dtype="string")
    model = keras.Model(text, keras.layers.Dense(1)(lookup(text)))
    model.compile(optimizer=hvd.DistributedOptimizer("sgd"), loss="mse")
    dataset = tf.data.Dataset.from_tensor_slices((words, np.ones((2, 1), "float32"))).batch(2)
    model.fit(dataset, verbose=0, callbacks=[hvd.callbacks.BroadcastGlobalVariablesCallback(0)])
    same_on_all_ranks(model)
    assert lookup.get_vocabulary() == ["[UNK]", "a", "b"]


@long
def check_metric_average_is_exact_with_unequal_rows() -> None:
    rows = 8 + 4 * hvd.rank()
    x, y = data(rows, seed=hvd.rank())
    y = (y[:, :1] > 0).astype("float32")
    parts = hvd.allgather_object((x, y))
    all_x, all_y = (np.concatenate(part) for part in zip(*parts, strict=True))
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.layers.Input((6,)), keras.layers.Dense(1, activation="sigmoid")]
    )
    model.compile(optimizer=O.SGD(0.0), loss="binary_crossentropy", metrics=["AUC", "accuracy"])
    expected = model.evaluate(all_x, all_y, return_dict=True, verbose=0)
    history = model.fit(
        x,
        y,
        batch_size=4,
        validation_data=(x, y),
        verbose=0,
        callbacks=[hvd.callbacks.MetricAverageCallback()],
    ).history
    for name, value in expected.items():
        np.testing.assert_allclose(history[name][0], value, rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(history[f"val_{name}"][0], value, rtol=1e-5, err_msg=name)


class _OnRankZero(keras.callbacks.Callback):
    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if hvd.rank() == 0 and logs is not None:
            logs["only_here"] = 1.0


def check_metric_on_one_rank_is_an_error_that_names_it() -> None:
    if hvd.size() == 1:
        return
    model = mlp(0)
    model.compile(optimizer=hvd.DistributedOptimizer("sgd"), loss="mse")
    with pytest.raises(hvd.RankMismatchError, match=r"'only_here'.*rank 1"):
        fit(model, [_OnRankZero(), hvd.callbacks.MetricAverageCallback()])


@long
def check_warmup_follows_horovods_formula() -> None:
    size, seen = hvd.size(), []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
            seen.append(float(self.model.optimizer.learning_rate))

    model = mlp(0)
    model.compile(optimizer=hvd.DistributedOptimizer(O.SGD(0.4)), loss="mse")
    warmup = hvd.callbacks.LearningRateWarmupCallback(0.4, warmup_epochs=2)
    history = fit(model, [warmup, Watch()], epochs=3).history
    expected = [
        0.4 / size * ((epoch + batch / 4 + 1 / 4) * (size - 1) / 2 + 1)
        for epoch in range(2)
        for batch in range(4)
    ]
    np.testing.assert_allclose(seen, expected + [0.4] * 4, rtol=1e-5)
    np.testing.assert_allclose(history["lr"][-1], 0.4, rtol=1e-6)


@long
def check_schedule_staircase_and_constant_multiplier() -> None:
    model = mlp(0)
    model.compile(optimizer=hvd.DistributedOptimizer(O.SGD(0.4)), loss="mse")
    schedule = hvd.callbacks.LearningRateScheduleCallback(0.4, 0.5, start_epoch=1, end_epoch=3)
    history = fit(model, [schedule], epochs=4).history
    np.testing.assert_allclose(history["lr"], [0.4, 0.4, 0.2, 0.2], rtol=1e-6)


@long
def check_momentum_correction_takes_effect_in_compiledfit() -> None:
    """By hand: v = m (new / old) v - lr g at the change, on a loss whose gradient is 1."""

    def final(correction: bool) -> float:
        model = keras.Sequential(
            [
                keras.layers.Input((1,)),
                keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros"),
            ]
        )
        optimizer = hvd.DistributedOptimizer(O.SGD(0.1, momentum=0.5))
        model.compile(optimizer=optimizer, loss=lambda y, p: keras.ops.sum(p))
        schedule = hvd.callbacks.LearningRateScheduleCallback(
            0.1, lambda epoch: [1.0, 3.0][epoch], momentum_correction=correction
        )
        ones = np.ones((1, 1), "float32")
        model.fit(ones, ones, batch_size=1, epochs=2, verbose=0, callbacks=[schedule])
        return float(model.get_weights()[0][0, 0])

    first = -0.1
    np.testing.assert_allclose(final(False), first + 0.5 * first - 0.3, rtol=1e-5)
    np.testing.assert_allclose(final(True), first + 0.5 * 3.0 * first - 0.3, rtol=1e-5)


class _Scripted(keras.callbacks.Callback):
    """Puts a different number into each rank's logs; only the average gets worse."""

    def __init__(self, worse_from: int) -> None:
        super().__init__()
        self.worse_from = worse_from

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        assert logs is not None
        best = -1.0 if hvd.rank() == 0 else 1.0
        logs["scripted"] = best * epoch + (10.0 * epoch if epoch >= self.worse_from else 0.0)


@long
def check_early_stopping_decides_alike() -> None:
    model = mlp(0)
    model.compile(optimizer=hvd.DistributedOptimizer("sgd"), loss="mse")
    stop = hvd.callbacks.EarlyStopping(monitor="scripted", mode="min", patience=1)
    history = fit(model, [_Scripted(2), stop], epochs=6).history
    assert len(set(hvd.allgather_object(len(history["loss"])))) == 1
    assert len(history["loss"]) < 6


@long
def check_reduce_lr_on_plateau_decides_alike() -> None:
    model = mlp(0)
    model.compile(optimizer=hvd.DistributedOptimizer(O.SGD(0.4)), loss="mse")
    plateau = hvd.callbacks.ReduceLROnPlateau(
        monitor="scripted", mode="min", factor=0.5, patience=1, min_delta=0.0
    )
    history = fit(model, [_Scripted(1), plateau], epochs=4).history
    rates = hvd.allgather_object(tuple(history["learning_rate"]))
    assert len(set(rates)) == 1
    assert rates[0][-1] < 0.4


@long
def check_checkpoints_are_written_by_rank_0_only() -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = mlp(0)
        model.compile(optimizer=hvd.DistributedOptimizer("sgd"), loss="mse")
        best = hvd.callbacks.BestModelCheckpoint(monitor="loss")
        best.filepath = os.path.join(folder, "best.keras")
        every = hvd.callbacks.ModelCheckpoint(os.path.join(folder, "{epoch}.keras"))
        fit(model, [best, every], epochs=2)
        expected = ["1.keras", "2.keras", "best.keras"] if hvd.rank() == 0 else []
        assert sorted(os.listdir(folder)) == expected


@long
def check_config_free_verbose_auto_is_quiet_on_other_ranks() -> None:
    import contextlib
    import io

    model = mlp(0)
    model.compile(optimizer=hvd.DistributedOptimizer("sgd"), loss="mse")
    x, y = data(16, seed=hvd.rank())
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        model.fit(x, y, batch_size=4)
    assert bool(printed.getvalue()) == (hvd.rank() == 0), printed.getvalue()


@long
def check_checkpoints_within_an_epoch() -> None:
    folder = shared_folder()
    model = mlp(0)
    model.compile(optimizer=hvd.DistributedOptimizer("sgd"), loss="mse")
    saving = [
        hvd.callbacks.ModelCheckpoint(str(folder / "{batch}.keras"), save_freq=2),
        hvd.callbacks.BestModelCheckpoint("loss", save_freq=1, filepath=str(folder / "best.keras")),
    ]
    fit(model, saving, epochs=1)
    hvd.barrier()
    assert sorted(os.listdir(folder)) == ["2.keras", "4.keras", "best.keras"]
    hvd.barrier()
    if hvd.rank() == 0:
        shutil.rmtree(folder)
