"""The state that elastic training goes on from, where no rank dies."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from checks.reference import data, mlp, same_on_all_ranks

import hvdkit as hvd
from hvdkit.engine.elastic import HostUpdateResult, count_world, is_elastic

O = keras.optimizers  # noqa: E741


def _trained(optimizer: Any, seed: int = 0) -> keras.Model:
    model = mlp(seed + hvd.rank())
    model.compile(optimizer=hvd.DistributedOptimizer(optimizer), loss="mse")
    _train(model)
    return model


def _train(model: keras.Model, callbacks: Any = None, **options: Any) -> Any:
    x, y = data(16, seed=hvd.rank())
    return model.fit(x, y, batch_size=4, verbose=0, callbacks=callbacks, **options)


def _values(variables: Any) -> list[np.ndarray]:
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


def _require_equal(these: list[np.ndarray], those: list[np.ndarray]) -> None:
    for this, that in zip(these, those, strict=True):
        np.testing.assert_array_equal(this, that)


def check_restore_puts_back_what_was_saved() -> None:
    for optimizer in (O.Adam(0.01), O.SGD(0.01, momentum=0.9), O.LossScaleOptimizer(O.Lion(0.01))):
        model = _trained(optimizer)
        state = hvd.elastic.KerasState(model, epoch=3, losses=[1.0])
        state.save()
        before = _values(model.variables + model.optimizer.variables)
        _train(model, epochs=2)
        state.epoch, lost = 4, state.losses
        lost.append(2.0)
        after = _values(model.variables + model.optimizer.variables)
        assert any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))
        state.restore()
        _require_equal(_values(model.variables + model.optimizer.variables), before)
        assert (state.epoch, state.losses) == (3, [1.0])


def check_restore_before_the_first_commit_is_the_state_it_was_made_with() -> None:
    model = mlp(hvd.rank())
    model.compile(optimizer=hvd.DistributedOptimizer(O.Adam(0.01)), loss="mse")
    state = hvd.elastic.KerasState(model, epoch=0)
    before = _values(model.variables + model.optimizer.variables)
    _train(model)
    state.epoch = 1
    state.restore()
    _require_equal(_values(model.variables + model.optimizer.variables), before)
    assert state.epoch == 0
    assert int(model.optimizer.iterations) == 0


def check_sync_takes_the_state_of_rank_0_at_the_start() -> None:
    model = mlp(hvd.rank())
    model.compile(optimizer=hvd.DistributedOptimizer(O.Adam(0.01)), loss="mse")
    if hvd.rank() == 0:  # the others have an optimizer that is not built yet
        _ = [v.assign(v + 1.0) for v in model.trainable_variables]
        model.optimizer.build(model.trainable_variables)
        model.optimizer.iterations.assign(17)
    expected = hvd.broadcast_object(model.get_weights(), 0)
    state = hvd.elastic.KerasState(model, epoch=10 * hvd.rank())
    state.sync()
    _require_equal(model.get_weights(), expected)
    assert int(model.optimizer.iterations) == 17
    assert state.epoch == 0


def check_sync_takes_the_state_of_the_rank_that_has_committed_most() -> None:
    """A rank that has just joined has committed nothing, whatever its number is."""
    veteran = hvd.size() - 1
    model = _trained(O.Adam(0.01))
    state = hvd.elastic.KerasState(model, epoch=hvd.rank(), batch=0)
    if hvd.rank() == veteran:
        model.set_weights([w + 1.0 for w in model.get_weights()])
        for _ in range(3):
            state.save()
    expected = hvd.broadcast_object(_values(model.variables + model.optimizer.variables), veteran)
    state.sync()
    _require_equal(_values(model.variables + model.optimizer.variables), expected)
    assert state.epoch == veteran
    same_on_all_ranks(model)
    # All have it now, so the next sync takes rank 0's.
    state.epoch = 5 + hvd.rank()
    state.save()
    state.sync()
    assert state.epoch == 5


def check_sync_leaves_local_variables_and_keeps_dropout_different() -> None:
    layers = keras.layers
    keras.utils.set_random_seed(5)
    model = keras.Sequential([layers.Input((6,)), layers.Dropout(0.5), layers.Dense(2)])
    optimizer = hvd.DistributedOptimizer(O.SGD(0.01))
    optimizer.register_local_var(model.layers[-1].bias)
    model.compile(optimizer=optimizer, loss="mse")
    model.layers[-1].bias.assign([float(hvd.rank())] * 2)
    hvd.elastic.KerasState(model).sync()
    np.testing.assert_array_equal(model.layers[-1].bias.numpy(), [float(hvd.rank())] * 2)
    masks = hvd.allgather_object(model.layers[0](tf.ones((1, 64)), training=True).numpy())
    assert all(not np.array_equal(masks[0], other) for other in masks[1:])


def check_different_models_are_an_error_on_every_rank() -> None:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.layers.Input((3 + hvd.rank(),)), keras.layers.Dense(2)])
    model.compile(optimizer=hvd.DistributedOptimizer("sgd"), loss="mse")
    with pytest.raises(hvd.RankMismatchError, match="variables of model and optimizer"):
        hvd.elastic.KerasState(model).sync()


def check_what_is_no_state_is_refused() -> None:
    model = keras.Sequential([keras.layers.Dense(2)])
    model.compile(optimizer="sgd", loss="mse")
    with pytest.raises(ValueError, match="is not built yet"):
        hvd.elastic.KerasState(model)
    with pytest.raises(ValueError, match="has no optimizer"):
        hvd.elastic.KerasState(mlp(0))
    with pytest.raises(ValueError, match="batches_per_commit is at least 1"):
        hvd.elastic.CommitStateCallback(hvd.elastic.ObjectState(), 0)


def check_reset_makes_keras_trace_its_steps_anew() -> None:
    model = _trained(O.SGD(0.01))
    state = hvd.elastic.KerasState(model, epoch=0)
    called: list[int] = []
    state.register_reset_callbacks([lambda: called.append(hvd.size())])
    assert model.train_function is not None
    state.on_reset()
    assert (model.train_function, model.test_function, called) == (None, None, [hvd.size()])
    _train(model)


def check_callbacks_commit_and_count_in_any_order() -> None:
    elastic = hvd.elastic
    for first in (0, 1):
        model = _trained(O.SGD(0.01))
        state = elastic.KerasState(model, epoch=0, batch=0)
        commits: list[tuple[int, int, int]] = []
        start = int(model.optimizer.iterations)

        class Noting(elastic.CommitStateCallback):
            def _commit(self) -> None:
                super()._commit()
                done = int(model.optimizer.iterations) - start  # noqa: B023
                commits.append((state.epoch, state.batch, done))  # noqa: B023

        callbacks = [
            Noting(state, 2),
            elastic.UpdateBatchStateCallback(state),
            elastic.UpdateEpochStateCallback(state),
        ]
        _train(model, callbacks[first:] + callbacks[:first], epochs=2)
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


def check_fit_passes_over_batches_that_are_done() -> None:
    whole = [(1, 2), (1, 3), (2, 0), (2, 1), (2, 2), (2, 3)]
    x, y = data(16 * hvd.size(), seed=3)
    stream = tf.data.Dataset.from_tensor_slices((x, y)).batch(4).repeat()
    for inputs, options in (
        (hvd.shard((x, y), batch_size=4), {}),
        (stream, {"steps_per_epoch": 4}),
        (x[:16], {"y": y[:16], "batch_size": 4}),
    ):
        model = _trained(O.SGD(0.01))
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
    model = _trained(O.SGD(0.01))
    state = hvd.elastic.KerasState(model, batch=10)
    state._ranks = 2 * hvd.size()  # as if twice as many ranks had committed
    callback = hvd.elastic.UpdateBatchStateCallback(state)
    callback.on_train_begin()
    assert state.batch == 20
    callback.on_train_begin()
    assert state.batch == 20


def check_a_function_traced_for_other_ranks_is_an_error() -> None:
    """It would reduce over ranks that are gone, and not over those that are new."""
    model = mlp(1)
    x, y = data(8, seed=hvd.rank())

    unused = tf.Variable(1.0)

    @tf.function
    def gradients() -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x) - y) ** 2)
        tape = hvd.DistributedGradientTape(tape)
        return tape.gradient(loss, [*model.trainable_variables, unused])

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOROVOD_ELASTIC", "1")
        *reduced, none = gradients()
        assert none is None
        for other in hvd.allgather_object([g.numpy() for g in reduced]):
            _require_equal([g.numpy() for g in reduced], other)
        count_world()
        with pytest.raises(tf.errors.InvalidArgumentError, match="traced before the ranks changed"):
            gradients()


def check_run_outside_of_an_elastic_job() -> None:
    """It syncs and calls once; news of hosts do not count, and a lost rank is an error."""
    assert not is_elastic()
    state = hvd.elastic.ObjectState(step=hvd.rank())
    calls: list[int] = []

    @hvd.elastic.run
    def train(state: Any, factor: int, *, more: int) -> int:
        calls.append(state.step)
        state.on_hosts_updated(1, HostUpdateResult.added)
        state.commit()
        return state.step + factor * more

    assert train(state, 2, more=3) == 6
    assert calls == [0]

    @hvd.elastic.run
    def lose(state: Any) -> None:
        raise hvd.CollectiveError("a rank has left")

    with pytest.raises(hvd.CollectiveError, match="a rank has left"):
        lose(state)
