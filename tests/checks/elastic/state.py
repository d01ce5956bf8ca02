"""What KerasState saves, restores and sends."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from checks.agreement.outside_variables import outputs, tabular
from checks.agreement.own_weights import OwnLast
from checks.elastic.models import compiled, require_equal, train, trained, values
from checks.gans import gan
from checks.gans import rows as gan_rows
from checks.gans import state as gan_state
from checks.marks import long
from checks.reference import mlp, same_on_all_ranks

import hvdkit as hvd
from hvdkit.state import outside_variables

O = keras.optimizers  # noqa: E741


@long
def check_restore_puts_back_what_was_saved() -> None:
    for optimizer in (O.Adam(0.01), O.LossScaleOptimizer(O.Lion(0.01))):
        model = trained(optimizer)
        state = hvd.elastic.KerasState(model, epoch=3, losses=[1.0])
        state.save()
        before = values(model.variables + model.optimizer.variables)
        train(model, epochs=2)
        state.epoch, lost = 4, state.losses
        lost.append(2.0)
        after = values(model.variables + model.optimizer.variables)
        assert any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))
        state.restore()
        require_equal(values(model.variables + model.optimizer.variables), before)
        assert (state.epoch, state.losses) == (3, [1.0])


def check_restore_before_the_first_commit_is_the_state_it_was_made_with() -> None:
    model = compiled(O.Adam(0.01))
    state = hvd.elastic.KerasState(model, epoch=0)
    before = values(model.variables + model.optimizer.variables)
    train(model)
    state.epoch = 1
    state.restore()
    require_equal(values(model.variables + model.optimizer.variables), before)
    assert state.epoch == 0
    assert int(model.optimizer.iterations) == 0


def check_sync_takes_the_state_of_rank_0_at_the_start() -> None:
    model = compiled(O.Adam(0.01))
    if hvd.rank() == 0:  # the others have an optimizer that is not built yet
        _ = [v.assign(v + 1.0) for v in model.trainable_variables]
        model.optimizer.build(model.trainable_variables)
        model.optimizer.iterations.assign(17)
    expected = hvd.broadcast_object(model.get_weights(), 0)
    state = hvd.elastic.KerasState(model, epoch=10 * hvd.rank())
    state.sync()
    require_equal(model.get_weights(), expected)
    assert int(model.optimizer.iterations) == 17
    assert state.epoch == 0


@long
def check_sync_takes_the_state_of_the_rank_that_has_committed_most() -> None:
    """A rank that has just joined has committed nothing, whatever its number is."""
    veteran = hvd.size() - 1
    model = trained(O.Adam(0.01))
    state = hvd.elastic.KerasState(model, epoch=hvd.rank(), batch=0)
    if hvd.rank() == veteran:
        model.set_weights([w + 1.0 for w in model.get_weights()])
        for _ in range(3):
            state.save()
    expected = hvd.broadcast_object(values(model.variables + model.optimizer.variables), veteran)
    state.sync()
    require_equal(values(model.variables + model.optimizer.variables), expected)
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
    model = trained(O.SGD(0.01))
    state = hvd.elastic.KerasState(model, epoch=0)
    called: list[int] = []
    state.register_reset_callbacks([lambda: called.append(hvd.size())])
    assert model.train_function is not None
    state.on_reset()
    assert (model.train_function, model.test_function, called) == (None, None, [hvd.size()])
    train(model)


@long
def check_all_optimizers_of_a_model_and_of_a_loop() -> None:
    model = gan(hvd.rank())
    more = [hvd.DistributedOptimizer(O.Adagrad())]
    state = hvd.elastic.KerasState(model, more, epoch=0)
    assert not model.d_optimizer.built, "nobody knows yet what it trains"
    if hvd.rank() == 0:  # the others have just joined
        model.d_optimizer.build(model.discriminator.trainable_variables)
        model.d_optimizer.variables[2].assign(tf.ones_like(model.d_optimizer.variables[2].value))
    state.sync()
    assert float(keras.ops.sum(model.d_optimizer.variables[2])) > 0
    before = gan_state(model)
    slots = len(model.d_optimizer.variables)
    model.fit(hvd.shard(gan_rows(16), 4), verbose=0)
    more[0].build(model.generator.trainable_variables)
    more[0].apply([tf.ones_like(v.value) for v in model.generator.trainable_variables])
    state.restore()
    after = gan_state(model)[: len(before)]
    require_equal(after, before)
    assert len(model.d_optimizer.variables) == slots
    fresh = O.Adagrad()
    fresh.build(model.generator.trainable_variables)
    require_equal(values(more[0].variables), values(fresh.variables))


@long
def check_what_layers_keep_is_restored_and_sent() -> None:
    model = tabular(hvd.rank())
    root, own = outputs(tabular(0)), outputs(model)
    state = hvd.elastic.KerasState(model)
    other = tabular(hvd.rank() + 1)
    model.set_weights(other.get_weights())
    outside_variables.write(model, outside_variables.read(other))
    state.restore()
    np.testing.assert_allclose(outputs(model), own, rtol=1e-5)
    state.sync()
    np.testing.assert_allclose(outputs(model), root, rtol=1e-5)


def check_weights_of_a_rank_stay_its_own() -> None:
    layer = OwnLast()
    model = keras.Sequential([keras.layers.Input((6,)), layer, keras.layers.Dense(1)])
    model.compile(hvd.DistributedOptimizer("sgd"), "mse")
    for variable in (layer.last, layer.mean):
        variable.assign([1.0 + hvd.rank()])
    hvd.elastic.KerasState(model).sync()
    assert float(layer.last[0]) == 1.0 + hvd.rank()
    assert float(layer.mean[0]) == 1.0


def check_state_of_variables_without_a_model() -> None:
    variables = [tf.Variable([float(hvd.rank())]), keras.Variable(hvd.rank() + 1.0)]
    state = hvd.elastic.TensorFlowState(variables, batch=hvd.rank())
    state.sync()
    assert [float(tf.reshape(v, [])) for v in values(variables)] == [0.0, 1.0]
    assert state.batch == 0
    variables[0].assign([7.0])
    state.batch = 3
    state.restore()
    assert (float(variables[0][0]), state.batch) == (0.0, 0)
    with pytest.raises(ValueError, match="no variables"):
        hvd.elastic.TensorFlowState()
