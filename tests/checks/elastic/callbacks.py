"""Where in an epoch training goes on."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from checks.elastic.models import compiled, train
from checks.marks import long
from checks.reference import data, mlp

import hvdkit as hvd

O = keras.optimizers  # noqa: E741


def check_callbacks_commit_and_count_in_any_order() -> None:
    elastic = hvd.elastic
    for first in (0, 1):
        model = compiled(O.SGD(0.01))
        state = elastic.KerasState(model, epoch=0, batch=0)
        commits: list[tuple[int, int, int]] = []

        class Noting(elastic.CommitStateCallback):
            def commit(self) -> None:
                super().commit()
                done = int(model.optimizer.iterations)  # noqa: B023
                commits.append((state.epoch, state.batch, done))  # noqa: B023

        callbacks = [
            Noting(state, 2),
            elastic.UpdateBatchStateCallback(state),
            elastic.UpdateEpochStateCallback(state),
        ]
        train(model, callbacks[first:] + callbacks[:first], epochs=2)
        assert commits == [(0, 2, 2), (1, 0, 4), (1, 2, 6), (2, 0, 8)], commits


class _Batches(keras.callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int]] = []
        self.epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen.append((self.epoch, batch))


@long
def check_fit_passes_over_batches_that_are_done() -> None:
    whole = [(1, 2), (1, 3), (2, 0), (2, 1), (2, 2), (2, 3)]
    x, y = data(16 * hvd.size(), seed=3)
    stream = tf.data.Dataset.from_tensor_slices((x, y)).batch(4).repeat()
    for inputs, options in (
        (hvd.shard((x, y), batch_size=4), {}),
        (stream, {"steps_per_epoch": 4}),
        (x[:16], {"y": y[:16], "batch_size": 4}),
    ):
        model = compiled(O.SGD(0.01))
        state = hvd.elastic.KerasState(model, epoch=1, batch=2)
        batches = _Batches()
        callbacks = [
            hvd.elastic.UpdateBatchStateCallback(state),
            hvd.elastic.UpdateEpochStateCallback(state),
            batches,
        ]
        model.fit(
            inputs,
            initial_epoch=state.epoch,
            epochs=3,
            verbose=0,
            callbacks=callbacks,
            validation_data=(x[:8], y[:8]),
            **options,
        )
        assert batches.seen == whole, batches.seen
        assert (state.epoch, state.batch) == (3, 0)


@long
def check_training_in_two_parts_reads_the_rows_that_are_left() -> None:
    """In data from hvd.shard: as if it had never stopped."""
    x, y = data(16 * hvd.size(), seed=3)

    def start() -> tuple[keras.Model, Any]:
        model = mlp(7)
        model.compile(optimizer=hvd.DistributedOptimizer(O.Adam(0.01), groups=1), loss="mse")
        return model, hvd.elastic.KerasState(model, epoch=0, batch=0)

    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if (int(self.model.optimizer.iterations)) == 6:
                raise KeyboardInterrupt

    def fit(model: keras.Model, state: Any, *more: Any) -> None:
        position = [
            hvd.elastic.UpdateBatchStateCallback(state),
            hvd.elastic.UpdateEpochStateCallback(state),
        ]
        train = hvd.shard((x, y), batch_size=4, seed=5)
        options = {"initial_epoch": state.epoch, "epochs": 3, "verbose": 0}
        model.fit(train, callbacks=[*position, *more], **options)

    model, state = start()
    fit(model, state)
    expected = model.get_weights()
    model, state = start()
    with pytest.raises(KeyboardInterrupt):
        fit(model, state, Interrupt())
    assert (state.epoch, state.batch) == (1, 2)
    fit(model, state)
    for mine, theirs in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def check_batches_are_counted_anew_for_another_number_of_ranks() -> None:
    model = compiled(O.SGD(0.01))
    state = hvd.elastic.KerasState(model, batch=10)
    state._ranks = 2 * hvd.size()  # as if twice as many ranks had committed
    callback = hvd.elastic.UpdateBatchStateCallback(state)
    callback.on_train_begin()
    assert state.batch == 20
    callback.on_train_begin()
    assert state.batch == 20
