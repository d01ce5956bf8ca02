"""Losses, norms, rows and bytes are those of the job."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from checks.checkpoints.runs import StopAt, Stopped, shared_folder
from checks.marks import long
from checks.monitor.kept import monitored
from checks.reference import data, mlp, same_on_all_ranks

import hvdkit as hvd
from hvdkit.exchange import AllReduce, PowerSGD, Sharded, TopK
from hvdkit.monitoring.window import WIDTH

BATCH = 3


def _compiled(optimizer: Any, seed: int | None = None, **options: Any) -> keras.Model:
    model = mlp(100 + hvd.rank() if seed is None else seed)
    if hvd.rank() == 0:
        model.set_weights(mlp(0).get_weights())
    model.compile(optimizer, "mse", metrics=["mae"], **options)
    return model


def check_losses_are_means_over_the_steps_and_rows_of_all_ranks() -> None:
    """With a short last batch, in which ranks have unequal rows, or none."""
    size = hvd.size()
    x, y = data(size * BATCH * 6 + 1)
    model = _compiled(hvd.DistributedOptimizer(keras.optimizers.SGD(0.0)))
    kept = monitored(model, hvd.shard((x, y), BATCH, shuffle=False), epochs=2)
    reference = mlp(0)
    errors = np.asarray(reference(x)) - y
    squared, absolute = (errors**2).mean(1), np.abs(errors).mean(1)
    per_step = size * BATCH
    steps = {1: range(1, 3), 2: range(3, 5)}
    for i, of_steps in steps.items():
        rows = slice(of_steps.start * per_step, of_steps.stop * per_step)
        values = kept.of_steps[i - 1].values
        np.testing.assert_allclose(values["loss"], squared[rows].mean(), rtol=1e-5)
        np.testing.assert_allclose(values["mae"], absolute[rows].mean(), rtol=1e-5)
    # Steps 6 and 7 of the first epoch: the last has one row in all.
    last = np.r_[5 * per_step : len(x)]
    np.testing.assert_allclose(kept.of_steps[2].values["mae"], absolute[last].mean(), rtol=1e-5)
    assert [sample.step for sample in kept.of_steps] == [3, 5, 7, 9, 11, 13, 14]
    assert [sample.epoch for sample in kept.of_steps] == [1, 1, 1, 2, 2, 2, 2]
    for sample in kept.of_epochs:
        np.testing.assert_allclose(sample.values["loss"], squared.mean(), rtol=1e-5)
    assert [(sample.step, sample.epoch) for sample in kept.of_epochs] == [(7, 1), (14, 2)]
    with tf.GradientTape() as tape:  # of the last step of the first sample
        rows = slice(2 * per_step, 3 * per_step)
        loss = keras.losses.MeanSquaredError()(y[rows], reference(x[rows], training=True))
    norm = tf.linalg.global_norm(tape.gradient(loss, reference.trainable_variables))
    np.testing.assert_allclose(kept.of_steps[0].values["gradient_norm"], norm, rtol=1e-4)
    steady = kept.of_steps[1]
    of_buckets = [sent for name, sent in steady.sent.items() if "bucket" in name]
    assert sum(of_buckets) == (4 * model.count_params() if size > 1 else 0)
    np.testing.assert_allclose(sum(steady.sent.values()), steady.values["sent_bytes"])


def check_rows_and_tokens_are_those_that_count() -> None:
    """A rank's row that pads counts nowhere."""
    size, length = hvd.size(), 5
    rows = size * BATCH * 2 + 1
    ids = np.arange(rows * length).reshape(rows, length) % 7
    x, y = ids.astype("int32"), ids[:, :1].astype("float32")
    keras.utils.set_random_seed(hvd.rank())
    layers = [keras.layers.Embedding(7, 4), keras.layers.Flatten(), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((length,), dtype="int32"), *layers])
    model.compile(hvd.DistributedOptimizer(keras.optimizers.Adam()), "mse")
    kept = monitored(model, hvd.shard((x, y), BATCH, shuffle=False), every=1)
    counted = [
        round(sum(r.values.get("rows_per_second", 0) * r.values["step_seconds"] for r in s.ranks))
        for s in kept.of_steps
    ]
    assert counted == [size * BATCH, 1]
    first = kept.of_steps[0].values
    np.testing.assert_allclose(first["tokens_per_second"], length * first["rows_per_second"])
    np.testing.assert_allclose(first["rows_per_second"] * first["step_seconds"], size * BATCH)
    assert [rank.rank for rank in kept.of_steps[0].ranks] == list(range(size))


def _beside() -> float:
    """Bytes of a step at most beside the gradients: a third of a sample's rows, and some more."""
    return 8 * WIDTH * hvd.size() / 3 + 200


def _bytes(exchange: Any) -> tuple[float, float]:
    """Those of a step, and of the collectives of the optimizer among them."""
    model = _compiled(hvd.DistributedOptimizer(keras.optimizers.SGD(), exchange=exchange))
    x, y = data(hvd.size() * BATCH * 8)
    # The check after the first update is in the first sample.
    sample = monitored(model, hvd.shard((x, y), BATCH), every=3).of_steps[1]
    own = [size for name, size in sample.sent.items() if "bucket" in name.lower()]
    # Of rank 0, whose shards may have an element more, and of a rank by the mean.
    shards = 4 * len(sample.sent)
    np.testing.assert_allclose(
        sum(sample.sent.values()), sample.values["sent_bytes"], atol=shards if hvd.size() > 2 else 0
    )
    return sample.values["sent_bytes"], sum(own)


@long
def check_bytes_are_those_of_the_gradients() -> None:
    weights = mlp(0).count_params()
    total, of_buckets = _bytes(AllReduce())
    if hvd.size() == 1:
        assert (total, of_buckets) == (0, 0)
        return
    assert of_buckets == 4 * weights
    assert 4 * weights < total < 4 * weights + _beside()


@long
def check_bytes_of_methods_are_those_that_they_tell() -> None:
    if hvd.size() == 1:
        assert _bytes(Sharded()) == (0, 0)
        return
    variables = mlp(0).trainable_variables
    weights = mlp(0).count_params()
    assert _bytes(AllReduce(compression=hvd.Compression.bf16))[1] == 2 * weights
    for exchange in (AllReduce(PowerSGD(2)), AllReduce(TopK(0.1)), Sharded()):
        told = exchange.traffic(variables, 10)
        expected = told.given
        assert abs(_bytes(exchange)[0] - expected) < 0.2 * expected + _beside()


@long
def check_loss_that_is_not_a_number_is_told_as_it_is() -> None:
    """And a norm that is none does not spoil those that come after it."""
    per_step = hvd.size() * BATCH
    x, y = data(per_step * 5)
    y[4 * per_step - 1] = np.nan  # of one rank
    optimizer = keras.optimizers.SGD(0.01)
    model = _compiled(hvd.DistributedOptimizer(optimizer, nonfinite=hvd.nonfinite.Skip()))
    kept = monitored(model, hvd.shard((x, y), BATCH, shuffle=False), every=1)
    losses = [sample.values["loss"] for sample in kept.of_steps]
    norms = [sample.values["gradient_norm"] for sample in kept.of_steps]
    assert [math.isnan(loss) for loss in losses] == [False, False, True, True]  # as Keras's own
    assert [math.isnan(norm) for norm in norms] == [False, False, True, False]


@long
def check_training_is_the_same_to_the_bit() -> None:
    """With a monitor, without one, and after one."""
    x, y = data(hvd.size() * BATCH * 5)
    weights = []
    for with_monitor in (True, False):
        model = _compiled(hvd.DistributedOptimizer(keras.optimizers.Adam(0.01)))
        for _ in range(2):
            shard = hvd.shard((x, y), BATCH, seed=1)
            if with_monitor:
                monitored(model, shard, every=2)
            else:
                start = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
                model.fit(shard, verbose=0, callbacks=[start])
        same_on_all_ranks(model)
        weights.append(model.get_weights())
    for mine, plain in zip(*weights, strict=True):
        np.testing.assert_array_equal(mine, plain)


@long
def check_steps_go_on_where_a_training_stopped() -> None:
    x, y = data(hvd.size() * BATCH * 3)
    model = _compiled(hvd.DistributedOptimizer(keras.optimizers.SGD(0.01)))
    shard = hvd.shard((x, y), BATCH)
    first, second = (monitored(model, shard, every=1) for _ in range(2))
    assert first.jobs[0].resumed_at == 0
    assert second.jobs[0].resumed_at == 3
    assert [sample.step for sample in second.of_steps] == [5, 6]
    told = second.jobs[0].parameters
    assert told["optimizer"] == "SGD"
    assert told["parameters"] == model.count_params()
    assert told["ranks"] == hvd.size()


@long
def check_steps_of_an_epoch_that_goes_on_in_its_middle() -> None:
    x, y = data(hvd.size() * BATCH * 8)
    folder = shared_folder()
    backups = [hvd.callbacks.BackupAndRestore(folder, save_freq=2) for _ in range(2)]

    def fit(*callbacks: Any) -> Any:
        model = _compiled(hvd.DistributedOptimizer(keras.optimizers.SGD(0.01)))
        return monitored(model, hvd.shard((x, y), BATCH), every=1, callbacks=callbacks)

    with pytest.raises(Stopped):
        fit(StopAt(6), backups[0])
    backups[0]._saver._pool.shutdown()
    hvd.barrier()
    kept = fit(backups[1])
    before = kept.jobs[0].resumed_at
    assert before in (2, 4)  # whether all ranks had written the last one
    assert [sample.step for sample in kept.of_steps] == list(range(before + 2, 9))


class Evaluates(keras.callbacks.Callback):
    """In the middle of epochs and at their ends, with rows of another kind."""

    def __init__(self, data: Any) -> None:
        super().__init__()
        self._data = data

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == 1:
            self.model.evaluate(self._data, verbose=0)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.model.evaluate(self._data, verbose=0)


@long
def check_samples_over_the_ends_of_epochs_and_validations() -> None:
    """Each step and row counts once, and evaluations do not; a root of a mean is none."""
    per_step = hvd.size() * BATCH
    x, y = data(per_step * 4)
    model = mlp(0)
    metrics = [keras.metrics.RootMeanSquaredError(name="rmse")]
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.0)), "mse", metrics=metrics)
    train = hvd.shard((x, y), BATCH, shuffle=False)
    other = hvd.shard((x, 10 * y), BATCH)
    kept = monitored(
        model, train, every=3, epochs=3, validation_data=other, before=[Evaluates(other)]
    )
    losses = ((np.asarray(mlp(0)(x)) - y) ** 2).mean(1).reshape(4, per_step).mean(1)
    every_step = np.tile(losses, 3)[1:]
    assert [sample.step for sample in kept.of_steps] == [4, 7, 10, 12]
    for sample, first in zip(kept.of_steps, (0, 3, 6, 9), strict=True):
        steps = every_step[first : first + sample.steps]
        # Keras adds up in float32, and what an evaluation leaves is much larger.
        np.testing.assert_allclose(sample.values["loss"], steps.mean(), rtol=1e-3)
        assert "rmse" not in sample.values
    assert "rmse" in kept.of_epochs[0].values
    assert kept.of_epochs[0].values["val_loss"] > 10 * losses.mean()


@long
def check_logs_of_epochs_after_a_callback_that_evaluates() -> None:
    per_step = hvd.size() * BATCH
    x, y = data(per_step * 4)
    model = mlp(0)
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.0)), "mse")
    other = Evaluates(hvd.shard((x, 100 * y), BATCH))
    other.on_train_batch_end = lambda *_, **__: None  # what Keras itself does not keep apart
    kept = monitored(model, hvd.shard((x, y), BATCH), every=3, epochs=2, before=[other])
    expected = ((np.asarray(mlp(0)(x)) - y) ** 2).mean()
    for sample in kept.of_epochs:
        np.testing.assert_allclose(sample.values["loss"], expected, rtol=1e-4)


@long
def check_callbacks_that_train_another_model() -> None:
    """Their steps and rows are none of the training's."""
    x, y = data(hvd.size() * BATCH * 4)

    class Trains(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.other = mlp(1)
            self.other.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.01)), "mse")

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.other.train_on_batch(x[:5], y[:5])

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            self.other.fit(hvd.shard((x, y), 2), verbose=0)

    model = _compiled(hvd.DistributedOptimizer(keras.optimizers.SGD(0.01)))
    kept = monitored(model, hvd.shard((x, y), BATCH), every=1, before=[Trains()])
    assert [sample.step for sample in kept.of_steps] == [2, 3, 4]
    for sample in kept.of_steps:
        rows = sample.values["rows_per_second"] * sample.values["step_seconds"]
        assert round(rows) == hvd.size() * BATCH


@long
def check_accumulated_steps_go_on_in_a_second_fit() -> None:
    optimizer = keras.optimizers.SGD(0.01, gradient_accumulation_steps=2)
    model = _compiled(hvd.DistributedOptimizer(optimizer))
    shard = hvd.shard(data(hvd.size() * BATCH * 6), BATCH)
    first, second = (monitored(model, shard, every=2) for _ in range(2))
    assert all("gradient_norm" in sample.values for sample in first.of_steps[:2])
    assert second.jobs[0].resumed_at == 6
