"""An aggregator of one's own in an all-reduce: error feedback over signs."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from checks.composites import COMPOSITES, several
from checks.exchanges.kinds import ErrorFeedback, Signs
from checks.marks import long
from checks.reference import compare_with_one_process, data, mlp, same_on_all_ranks
from keras import optimizers

import hvdkit as hvd
from hvdkit.exchange import AllReduce, Cast, Gathered, Summed, variable_key
from hvdkit.optimizers.composition import tracked_of


def check_payloads_without_a_sum_are_gathered() -> None:
    """The mean of what each rank's codec left, and what the others saw of this rank."""
    own = tf.constant([[1.0, -2.0, 3.0], [-4.0, 5.0, 6.0]]) * (hvd.rank() + 1.0)
    own = own if hvd.rank() else -own
    gathered = Gathered(Signs())
    gathered.build([], hvd.global_process_set)
    codec = Signs()
    mine = codec.decode(*codec.encode(own)).numpy()
    mean = np.mean(hvd.allgather_object(mine), axis=0)
    aggregated = gathered.aggregate([own, own[0]], [None, None], "signs")
    np.testing.assert_allclose(aggregated.mean[0], mean, rtol=1e-6)
    assert aggregated.mean[1].shape == (3,)
    np.testing.assert_allclose(aggregated.sent[0], mine)
    summed = Summed(Cast("float16"))
    summed.build([], hvd.global_process_set)
    aggregated = summed.aggregate([own], [None], "halves")
    mean = np.mean(hvd.allgather_object(own), axis=0)
    np.testing.assert_allclose(aggregated.mean[0], mean, rtol=1e-3)  # thirds, in half precision
    assert aggregated.sent[0].dtype == tf.float32


@long
def check_nothing_is_lost_by_error_feedback() -> None:
    """The steps so far are the mean of what was given, less the mean of what is left."""
    for compile_step in (lambda step: step, tf.function):
        feedback = ErrorFeedback()
        variables = [keras.Variable(tf.zeros(shape)) for shape in ((3, 2), (4,))]
        optimizer = hvd.DistributedOptimizer(optimizers.SGD(1.0), exchange=AllReduce(feedback))
        optimizer.build(variables)
        step = compile_step(lambda *gradients, o=optimizer: o.apply([*gradients]))
        rng = np.random.default_rng(hvd.rank())
        given = [np.zeros(v.shape) for v in variables]
        for _ in range(5):
            gradients = [rng.normal(size=v.shape).astype("float32") for v in variables]
            step(*map(tf.constant, gradients))
            given = [g + new for g, new in zip(given, gradients, strict=True)]
        for variable, whole in zip(variables, given, strict=True):
            left = feedback.residuals[variable_key(variable)].numpy()
            assert np.abs(left).max() > 0.01
            mean = np.mean(hvd.allgather_object(whole - left), axis=0)
            np.testing.assert_allclose(-variable.numpy(), mean, rtol=1e-4, atol=1e-5)


@long
def check_error_feedback_in_fit_in_graphs_and_eagerly() -> None:
    x, y = data(32, seed=hvd.rank())
    ends = []
    for options in ({}, {"run_eagerly": True}, {"steps_per_execution": 2}):
        feedback = ErrorFeedback()
        model = mlp(3)
        exchange = AllReduce(feedback)
        model.compile(
            hvd.DistributedOptimizer(optimizers.SGD(0.05), exchange=exchange), "mse", **options
        )
        history = model.fit(x, y, batch_size=4, epochs=4, verbose=0, shuffle=False).history
        assert history["loss"][-1] < history["loss"][0]
        same_on_all_ranks(model)
        rows = tracked_of(model.optimizer)
        assert [row.path for row in rows] == [f"residual/{v.path}" for v in model.trainable_weights]
        residuals = [row.variable.numpy() for row in rows]
        everyone = hvd.allgather_object(residuals)
        assert not np.allclose(everyone[0][0], everyone[-1][0])
        ends.append(model.get_weights())
    for other in ends[1:]:
        for mine, theirs in zip(ends[0], other, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-5)


@long
def check_under_accumulation_loss_scaling_and_several_optimizers() -> None:
    for make in COMPOSITES:
        compare_with_one_process(
            mlp, make, lambda m=make: hvd.DistributedOptimizer(m(), exchange=AllReduce(Summed()))
        )
    model = mlp(0)
    optimizer = hvd.DistributedOptimizer(several(), exchange=AllReduce(ErrorFeedback()))
    optimizer.build(model.trainable_variables)
    paths = sorted(row.path for row in tracked_of(optimizer))
    assert paths == sorted(f"residual/{v.path}" for v in model.trainable_variables)


def check_an_optimizer_that_is_built_already() -> None:
    variable = keras.Variable([1.0, 2.0])
    optimizer = optimizers.SGD(1.0)
    optimizer.build([variable])
    hvd.DistributedOptimizer(optimizer, exchange=AllReduce(ErrorFeedback()))
    assert len(tracked_of(optimizer)) == 1
    optimizer.apply([tf.constant([1.0, 1.0]) * (hvd.rank() + 1)])
    np.testing.assert_allclose(variable.numpy(), np.array([1.0, 2.0]) - (hvd.size() + 1) / 2)
