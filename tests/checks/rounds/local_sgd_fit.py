"""Local steps in `fit`: what is evaluated, saved and compared is what all ranks have in common."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from checks.checkpoints.runs import shared_folder
from checks.marks import long
from checks.reference import compare_with_one_process, data, mlp, same_on_all_ranks
from checks.rounds.steps import close, mean_over_ranks, together
from keras import optimizers

import hvdkit as hvd
from hvdkit.exchange import LocalSGD


def _compiled(exchange: Any, optimizer: Any = None, seed: int = 5, **options: Any) -> keras.Model:
    model = mlp(seed)
    optimizer = optimizer or optimizers.SGD(0.1, momentum=0.9)
    model.compile(hvd.DistributedOptimizer(optimizer, exchange=exchange), "mse", **options)
    return model


class Looks(keras.callbacks.Callback):
    """Note in which batches and at which ends the ranks hold the same weights."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[bool] = []
        self.ends: list[bool] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.batches.append(together(self.model.get_weights()))

    def on_test_begin(self, logs: Any = None) -> None:
        self.ends.append(together(self.model.get_weights()))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.ends.append(together(self.model.get_weights()))


def check_epochs_end_with_a_meeting_and_start_a_round() -> None:
    x, y = data(20, seed=hvd.rank())
    looks = Looks()
    model = _compiled(LocalSGD(3))
    check = hvd.callbacks.ConsistencyCheck(every_n_epochs=1, every_n_steps=2)
    model.fit(
        x, y, batch_size=4, epochs=2, verbose=0, validation_data=(x, y), callbacks=[looks, check]
    )
    assert looks.ends == [True] * 4
    if hvd.size() > 1:
        assert looks.batches == [False, False, True, False, False] * 2, looks.batches


@long
def check_graphs_eagerly_and_several_steps_at_once() -> None:
    x, y = data(16, seed=hvd.rank())
    ends: list[Any] = []
    for options in ({}, {"run_eagerly": True}, {"steps_per_execution": 2}):
        model = _compiled(LocalSGD(3, outer=optimizers.SGD(0.7, momentum=0.9)), **options)
        model.fit(x, y, batch_size=4, verbose=0, shuffle=False)
        same_on_all_ranks(model)
        ends.append(model.get_weights())
    for other in ends[1:]:
        close(other, ends[0], rtol=1e-4, atol=1e-6)


@long
def check_one_step_rounds_are_one_process() -> None:
    """With short batches, other weights at the start on each rank, and what was sent before."""
    compare_with_one_process(
        mlp,
        lambda: optimizers.SGD(0.1),
        lambda: hvd.DistributedOptimizer(optimizers.SGD(0.1), exchange=LocalSGD(1)),
    )


def check_weights_that_start_apart_are_found() -> None:
    if hvd.size() == 1:
        return
    x, y = data(8)
    model = _compiled(LocalSGD(2), seed=hvd.rank())
    with pytest.raises(hvd.RankMismatchError, match="different variables before the first step"):
        model.fit(x, y, batch_size=4, verbose=0)


@long
def check_files_hold_what_ranks_have_in_common() -> None:
    """In the middle of an epoch, too."""
    x, y = data(16, seed=hvd.rank())
    folder = shared_folder()
    model = _compiled(LocalSGD(100))
    saving = hvd.callbacks.ModelCheckpoint(
        str(folder / "{batch}.weights.h5"), save_weights_only=True, save_freq=2
    )
    looks = Looks()
    model.fit(x, y, batch_size=4, verbose=0, callbacks=[saving, looks])
    if hvd.size() > 1:
        assert looks.batches == [False, True, False, True], looks.batches
    hvd.barrier()
    saved = mlp(0)
    saved.load_weights(folder / "4.weights.h5")
    close(saved.get_weights(), model.get_weights(), 0, 0)


@long
def check_rows_of_fit_weigh_the_mean() -> None:
    """Rank r has batches of 2 (r + 1) rows; the ranks meet at the end of the epoch."""
    batch = 2 * (hvd.rank() + 1)
    x, y = data(3 * batch, seed=hvd.rank())
    by_itself = hvd.callbacks.ConsistencyCheck(at_start=False)
    alone = mlp(5)
    alone.compile(optimizers.SGD(0.1), "mse")
    alone.fit(x, y, batch_size=batch, verbose=0, shuffle=False, callbacks=[by_itself])
    for options in ({}, {"jit_compile": True}):
        model = _compiled(LocalSGD(100, weights="rows"), optimizers.SGD(0.1), **options)
        model.fit(x, y, batch_size=batch, verbose=0, shuffle=False)
        everyone = hvd.allgather_object(([np.array(w) for w in alone.get_weights()], batch))
        rows = np.array([count for _, count in everyone], float)
        for i, mine in enumerate(model.get_weights()):
            of_ranks = np.array([weights[i] for weights, _ in everyone], float)
            expected = np.tensordot(rows / rows.sum(), of_ranks, 1)
            np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-5)


@long
def check_sharded_data_weighs_rows_in_the_loss() -> None:
    """A short last batch counts as its rows either way."""
    x, y = data(4 * hvd.size() + 1)
    ends = []
    for weights in ("equal", "rows"):
        model = _compiled(LocalSGD(1, weights=weights), optimizers.SGD(0.1))
        model.fit(hvd.shard((x, y), 4, shuffle=False), verbose=0)
        ends.append(model.get_weights())
    close(*ends, rtol=1e-6)
    plain = mlp(5)
    plain.compile(optimizers.SGD(0.1), "mse")
    plain.fit(x, y, batch_size=4 * hvd.size(), shuffle=False, verbose=0)
    close(ends[0], plain.get_weights(), rtol=1e-4, atol=1e-5)


@long
def check_statistics_and_averages_of_weights() -> None:
    """BatchNormalization's statistics are averaged at the end; `use_ema` ends alike on all."""
    x, y = data(16, seed=hvd.rank())
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.BatchNormalization(), keras.layers.Dense(2)]
    )
    optimizer = optimizers.Adam(0.1, use_ema=True, ema_momentum=0.9)
    model.compile(hvd.DistributedOptimizer(optimizer, exchange=LocalSGD(3)), "mse")
    model.fit(x, y, batch_size=4, epochs=2, verbose=0)
    same_on_all_ranks(model)
    moved = mean_over_ranks([np.abs(w) for w in model.get_weights()])
    assert all(np.all(np.isfinite(m)) for m in moved)


@long
def check_a_loaded_model_goes_on() -> None:
    x, y = data(16, seed=hvd.rank())
    model = _compiled(LocalSGD(3), optimizers.Adam(0.01))
    model.fit(x, y, batch_size=4, verbose=0)
    path = shared_folder() / "model.keras"
    if hvd.rank() == 0:
        model.save(path)
    hvd.barrier()
    loaded = hvd.load_model(path, exchange=LocalSGD(3))
    loaded.fit(
        x, y, batch_size=4, verbose=0, callbacks=[hvd.callbacks.ConsistencyCheck(every_n_steps=1)]
    )
    same_on_all_ranks(loaded)
