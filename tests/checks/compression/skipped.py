"""Steps with NaN or Inf leave what is kept alone on all ranks; the next are as without them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.compression.methods import METHODS, gradients_of, kept, optimizer_with, variables_of
from checks.marks import long
from keras import optimizers

import hvdkit as hvd
from hvdkit.exchange import AllReduce, Cast, ErrorFeedback

SHAPES = ((6, 5), (4,))
SOME = ("one bit", "stochastic", "late power", "momentum")


def _bad(value: float) -> list[np.ndarray]:
    """Gradients that are finite, but for one number on the last rank."""
    gradients = gradients_of(9, hvd.rank(), SHAPES)
    if hvd.rank() == hvd.size() - 1:
        gradients[1][2] = value
    return gradients


def _stepping(optimizer: Any, *, graph: bool) -> Callable[[list[np.ndarray]], None]:
    def step(*gradients: tf.Tensor) -> None:
        optimizer.apply([*gradients])

    run = tf.function(step) if graph else step
    return lambda gradients: run(*(tf.constant(g, tf.float32) for g in gradients))


def _good(step: Callable[..., None], numbers: range, scale: float = 1.0) -> None:
    for number in numbers:
        step([scale * g for g in gradients_of(number, hvd.rank(), SHAPES)])


def _left_out(name: str, *, graph: bool) -> None:
    ends = []
    for disturbed in (False, True):
        variables = variables_of(SHAPES)
        # In buckets of their own: that of the first variable holds no NaN.
        exchange = AllReduce(METHODS[name](), groups=[[v] for v in variables])
        optimizer = hvd.DistributedOptimizer(
            optimizers.SGD(1.0), exchange=exchange, nonfinite=hvd.nonfinite.Skip()
        )
        optimizer.build(variables)
        step = _stepping(optimizer, graph=graph)
        _good(step, range(3))
        if disturbed:
            before = kept(optimizer)
            for count, value in enumerate((np.nan, np.inf, -np.inf), 1):
                step(_bad(value))
                assert optimizer.nonfinite_steps == count, name
            for old, new in zip(before, kept(optimizer), strict=True):
                np.testing.assert_array_equal(old, new, err_msg=name)
        _good(step, range(3, 5))
        ends.append([v.numpy() for v in variables] + kept(optimizer))
    # Three halves and more are summed in the order in which they come to lie in a ring.
    rounded = 1e-3 if name == "float16" and hvd.size() > 2 else 0.0
    for calm, other in zip(*ends, strict=True):
        np.testing.assert_allclose(calm, other, rtol=rounded, atol=rounded, err_msg=name)


@long
def check_steps_that_are_left_out() -> None:
    _left_out("momentum", graph=False)
    _left_out("late power", graph=True)


@long
def check_steps_that_are_left_out_with_each_method() -> None:
    for name in METHODS:
        for graph in (False, True):
            _left_out(name, graph=graph)


@long
def check_without_a_policy_what_is_kept_stays_finite() -> None:
    """The weights are lost then, as in Keras; a checkpoint's can be put back and go on."""
    for name in SOME:
        variables = variables_of(SHAPES)
        optimizer = optimizer_with(METHODS[name](), variables)
        step = _stepping(optimizer, graph=False)
        _good(step, range(3))
        before = kept(optimizer)
        step(_bad(np.nan))
        for everyone in hvd.allgather_object([bool(np.isnan(v.numpy()).any()) for v in variables]):
            assert any(everyone), name
        for old, new in zip(before, kept(optimizer), strict=True):
            np.testing.assert_array_equal(old, new, err_msg=name)
        for variable in variables:
            variable.assign(tf.zeros(variable.shape))
        _good(step, range(3, 4))
        assert all(np.isfinite(v.numpy()).all() for v in variables)


def check_loss_scaling() -> None:
    for name in ("late power", "momentum"):
        variables = variables_of(SHAPES)
        inner = optimizers.LossScaleOptimizer(optimizers.SGD(1.0), initial_scale=4.0)
        optimizer = hvd.DistributedOptimizer(inner, exchange=AllReduce(METHODS[name]()))
        optimizer.build(variables)
        step = _stepping(optimizer, graph=False)
        _good(step, range(2), scale=4.0)
        before = kept(optimizer) + [v.numpy() for v in variables]
        step(_bad(np.inf))
        assert float(optimizer.dynamic_scale) == 2.0
        for old, new in zip(before, kept(optimizer) + [v.numpy() for v in variables], strict=True):
            np.testing.assert_array_equal(old, new, err_msg=name)
        plain = variables_of(SHAPES)
        unscaled = optimizer_with(METHODS[name](), plain)
        _good(_stepping(unscaled, graph=False), range(2))
        for mine, other in zip(kept(optimizer), kept(unscaled), strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)


def check_overflow_on_the_way() -> None:
    """Finite on each rank, and not in the type that travels."""
    (variable,) = variables_of([(4,)])
    optimizer = optimizer_with(
        ErrorFeedback(Cast("float16")), [variable], nonfinite=hvd.nonfinite.Skip()
    )
    optimizer.apply([tf.constant([1.0001, 1.0, 1.0, 1.0])])
    (before,) = kept(optimizer)
    assert np.abs(before).max() > 0
    optimizer.apply([tf.constant([1e6, 1.0, 1.0, 1.0])])
    np.testing.assert_array_equal(kept(optimizer)[0], before)
    assert optimizer.nonfinite_steps == 1


def check_local_gradients_do_not_divide_the_ranks() -> None:
    """Without a policy NaN of one rank alone stops no count of another."""
    shared, local = variables_of([(3, 3), (2,)])
    exchange = AllReduce(METHODS["late power"]())
    optimizer = hvd.DistributedOptimizer(optimizers.SGD(1.0), exchange=exchange)
    optimizer.register_local_var(local)
    optimizer.build([shared, local])
    for number in range(4):
        own = np.nan if hvd.rank() == 0 else 1.0
        gradient = gradients_of(number, hvd.rank(), [(3, 3)])[0]
        optimizer.apply([tf.constant(gradient), tf.constant([own, 1.0], tf.float32)])
    (steps,) = kept(optimizer, "low_rank/steps")
    assert int(steps) == 4
    everyone = hvd.allgather_object(shared.numpy())
    np.testing.assert_array_equal(everyone[0], everyone[-1])
    assert np.isfinite(everyone[0]).all()


@long
def check_accumulated_steps() -> None:
    """Micro-steps change nothing that is kept; NaN in one of them leaves out the update."""
    for graph in (False, True):
        variables = variables_of(SHAPES)
        optimizer = hvd.DistributedOptimizer(
            keras.optimizers.SGD(1.0, gradient_accumulation_steps=2),
            exchange=AllReduce(METHODS["momentum"]()),
            nonfinite=hvd.nonfinite.Skip(),
        )
        optimizer.build(variables)
        step = _stepping(optimizer, graph=graph)
        _good(step, range(2))
        before = kept(optimizer)
        assert np.abs(before[0]).max() > 0
        step(_bad(np.nan))
        step(gradients_of(3, hvd.rank(), SHAPES))
        for old, new in zip(before, kept(optimizer), strict=True):
            np.testing.assert_array_equal(old, new)
        assert optimizer.nonfinite_steps == 1
