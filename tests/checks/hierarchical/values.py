"""The mean is that of all ranks, whatever the groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.hierarchical.levels import all_groups, forgetting_process_sets, some_groups
from checks.marks import long

import hvdkit as hvd
from hvdkit.exchange import AllReduce, Delayed, Hierarchical, Summed
from hvdkit.optimizers.composition import tracked_of

# The last one travels alone, the others' bytes together.
SHAPES = ((3, 2), (5,), (), (600, 500))


def _gradients(*, whole: bool, dtype: str = "float32") -> list[tf.Tensor]:
    rng = np.random.default_rng([7, hvd.rank()])
    draw = (lambda s: rng.integers(-99, 99, s)) if whole else (lambda s: rng.normal(size=s))
    return [tf.constant(draw(shape), dtype) for shape in SHAPES]


def _mean(exchange: Any, gradients: list[tf.Tensor], *, graph: bool) -> list[np.ndarray]:
    """What an exchange makes of gradients, by a step of SGD."""
    dtype = gradients[0].dtype.name
    variables = [keras.Variable(tf.zeros(g.shape, dtype), dtype=dtype) for g in gradients]
    optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(-1.0), exchange=exchange)
    optimizer.build(variables)
    assert tracked_of(optimizer) == []

    def step(*gradients: tf.Tensor) -> None:
        optimizer.apply([*gradients])

    (tf.function(step) if graph else step)(*gradients)
    return [np.asarray(tf.cast(v.value, tf.float32)) for v in variables]


def _groups() -> list[Any]:
    ranks = range(hvd.size())
    return [*all_groups(), [[rank] for rank in ranks], [list(ranks)], None]


def _require_whole_numbers(some: list[Any], *, graph: bool) -> None:
    gradients = _gradients(whole=True)
    expected = _mean(AllReduce(), gradients, graph=False)
    assert np.abs(expected[1] - gradients[1]).max() > 1
    for groups in some:
        with forgetting_process_sets():
            mean = _mean(AllReduce(Hierarchical(groups=groups)), gradients, graph=graph)
        for mine, other in zip(mean, expected, strict=True):
            np.testing.assert_array_equal(mine, other, err_msg=str(groups))


def check_whole_numbers_are_those_of_an_all_reduce_to_the_bit() -> None:
    _require_whole_numbers(all_groups()[:1], graph=True)
    _require_whole_numbers([all_groups()[1], [[rank] for rank in range(hvd.size())]], graph=False)


@long
def check_whole_numbers_are_so_with_any_groups() -> None:
    for graph in (False, True):
        _require_whole_numbers(_groups(), graph=graph)


@long
def check_floats_are_so_to_their_precision() -> None:
    with forgetting_process_sets():
        for dtype, precision in (("float32", 1e-6), ("float64", 1e-6), ("bfloat16", 3e-2)):
            gradients = _gradients(whole=False, dtype=dtype)
            expected = _mean(AllReduce(), gradients, graph=True)
            for inner in (None, Summed(), hvd.Compression.none):
                for groups in _groups():
                    for graph in (False, True):
                        exchange = AllReduce(Hierarchical(_fresh(inner), groups=groups))
                        mean = _mean(exchange, gradients, graph=graph)
                        everyone = hvd.allgather_object(mean)
                        for mine, other, theirs in zip(mean, expected, everyone[-1], strict=True):
                            np.testing.assert_allclose(mine, other, rtol=0, atol=5 * precision)
                            np.testing.assert_array_equal(mine, theirs)


def _fresh(inner: Any) -> Any:
    return Summed() if isinstance(inner, Summed) else inner


def check_with_a_tape_and_a_step_late() -> None:
    """A tape makes its exchange's variables in each step: there are none."""
    with forgetting_process_sets():
        groups = some_groups()
        exchange = AllReduce(Hierarchical(groups=groups))
        weight = keras.Variable([1.0, 2.0])
        for step in range(3):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(weight.value * (hvd.rank() + step))
            tape = hvd.DistributedGradientTape(tape, exchange=exchange)
            (gradient,) = tape.gradient(loss, [weight])
            np.testing.assert_allclose(gradient, [step + (hvd.size() - 1) / 2] * 2)
        late = Delayed(exchange=AllReduce(Hierarchical(groups=groups)))
        optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(1.0), exchange=late)
        moved = keras.Variable([0.0])
        optimizer.build([moved])
        for step in range(3):
            optimizer.apply([tf.constant([float(hvd.rank() + step)])])
        np.testing.assert_allclose(moved.numpy(), [-(0 + 1 + (hvd.size() - 1))])


@long
def check_nan_on_one_rank_is_seen_by_all() -> None:
    """Also on a rank that is no leader, in a step that is left out on all."""
    for place, value, make in ((hvd.size() - 1, np.nan, tf.function), (0, np.inf, _as_it_is)):
        with forgetting_process_sets():
            exchange = AllReduce(Hierarchical(groups=some_groups()), groups=2)
            optimizer = hvd.DistributedOptimizer(
                keras.optimizers.SGD(1.0), exchange=exchange, nonfinite=hvd.nonfinite.Skip()
            )
            variables = [keras.Variable([1.0, 1.0]), keras.Variable([1.0])]
            optimizer.build(variables)
            step = make(lambda *g, o=optimizer: o.apply([*g]))
            bad = value if hvd.rank() == place else 1.0
            step(tf.constant([1.0, 1.0]), tf.constant([bad], tf.float32))
            assert optimizer.nonfinite_steps == 1
            step(tf.constant([1.0, 1.0]), tf.constant([2.0 * hvd.rank()]))
            np.testing.assert_allclose(variables[0].numpy(), [0.0, 0.0])
            np.testing.assert_allclose(variables[1].numpy(), [1.0 - (hvd.size() - 1)])


def _as_it_is(step: Callable[..., Any]) -> Callable[..., Any]:
    return step
