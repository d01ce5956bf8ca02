"""What an exchange keeps is saved, resumed, sent and compared, by nothing but its `Tracked`s."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from checks.checkpoints.runs import build, require_same_end, shared_folder, train
from checks.exchanges.kinds import ErrorFeedback, LocalSteps
from checks.marks import long
from checks.reference import compare_with_one_process, data, mlp, same_on_all_ranks
from keras import optimizers

import hvdkit as hvd
from hvdkit.exchange import AllReduce, variable_key
from hvdkit.optimizers.composition import tracked_of


def _kept(model: keras.Model) -> list[np.ndarray]:
    return [np.array(row.variable) for row in tracked_of(model.optimizer)]


def _require_resumed(make: Any) -> None:
    """A training that is stopped goes on to the bit, with the other variables of its exchange."""

    def model() -> keras.Model:
        return build(distributed={"exchange": make()}, optimizer=optimizers.SGD(0.01, momentum=0.9))

    never, folder = train(shared_folder(), model=model()), shared_folder()
    assert train(folder, stop=4, model=model(), save_freq=1) is None
    end = train(folder, model=model(), save_freq=1)
    require_same_end(never, end)
    kept = _kept(never.model)
    assert any(np.abs(values).max() > 0 for values in kept)
    for mine, expected in zip(_kept(end.model), kept, strict=True):
        np.testing.assert_array_equal(mine, expected)


@long
def check_residuals_are_saved_and_resumed() -> None:
    _require_resumed(lambda: AllReduce(ErrorFeedback()))


@long
def check_local_steps_are_saved_and_resumed_between_two_meetings() -> None:
    _require_resumed(lambda: LocalSteps(2, 0.5))  # the last checkpoint is after step 3


@long
def check_anchors_are_sent() -> None:
    """Each rank starts from weights of its own, which its anchors were made of."""
    compare_with_one_process(
        mlp,
        lambda: optimizers.SGD(0.1),
        lambda: hvd.DistributedOptimizer(optimizers.SGD(0.1), exchange=LocalSteps(1)),
    )


@long
def check_residuals_are_neither_sent_nor_compared() -> None:
    x, y = data(16, seed=hvd.rank())
    feedback = ErrorFeedback()
    model = mlp(hvd.rank())
    optimizer = hvd.DistributedOptimizer(optimizers.SGD(0.1), exchange=AllReduce(feedback))
    model.compile(optimizer, "mse")
    optimizer.build(model.trainable_variables)
    for residual in feedback.residuals.values():
        residual.assign(np.full(residual.shape, hvd.rank() + 1.0))
    callbacks = [
        hvd.callbacks.BroadcastGlobalVariablesCallback(0),
        hvd.callbacks.ConsistencyCheck(every_n_steps=1),
    ]
    callbacks[0].set_model(model)
    callbacks[0].on_train_begin()
    for residual in feedback.residuals.values():
        np.testing.assert_array_equal(residual.numpy(), hvd.rank() + 1.0)
    model.fit(x, y, batch_size=4, verbose=0, callbacks=callbacks)
    same_on_all_ranks(model)


@long
def check_weights_and_slots_that_drift_are_sent_and_not_compared() -> None:
    x, y = data(16, seed=hvd.rank())
    model = mlp(hvd.rank())
    optimizer = hvd.DistributedOptimizer(optimizers.Adam(0.1), exchange=LocalSteps(4))
    model.compile(optimizer, "mse")
    callbacks = [
        hvd.callbacks.BroadcastGlobalVariablesCallback(0),
        hvd.callbacks.ConsistencyCheck(every_n_steps=1),
    ]
    model.fit(x, y, batch_size=4, verbose=0, callbacks=callbacks)
    same_on_all_ranks(model)  # 4 steps: the ranks have just met


def check_a_difference_in_what_all_ranks_share_is_found() -> None:
    x, y = data(16, seed=hvd.rank())
    exchange = LocalSteps(2)
    model = mlp(0)
    optimizer = hvd.DistributedOptimizer(optimizers.SGD(0.1), exchange=exchange)
    model.compile(optimizer, "mse")
    optimizer.build(model.trainable_variables)
    if hvd.rank() == 1:
        anchor = exchange.anchors[variable_key(model.trainable_variables[0])]
        anchor.assign(anchor.value + 1.0)
    with pytest.raises(hvd.RankMismatchError, match="different variables before the first step"):
        model.fit(x, y, batch_size=4, verbose=0)
