"""Nothing is lost: mean(output + residual) is mean(gradient + old residual)."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.compression.methods import (
    METHODS,
    SHAPES,
    gradients_of,
    kept,
    mean_over_ranks,
    optimizer_with,
    variables_of,
)
from checks.marks import long

import hvdkit as hvd
from hvdkit.exchange import AllReduce, ErrorFeedback, Int8, OneBit, PowerSGD, TopK
from hvdkit.exchange.compression.low_rank import LowRank, orthonormal
from hvdkit.optimizers.composition import tracked_of

# Sums are rounded in float32, or on the way in the type of the cast.
TOLERANCES = {"float16": 4e-3, "bfloat16": 3e-2}


def _residuals(optimizer: Any, variables: list[Any]) -> list[np.ndarray]:
    """The residual of each variable; 0 where none is kept."""
    rows = {row.path: np.array(row.variable) for row in tracked_of(optimizer)}
    return [rows.get(f"residual/{v.path}", np.zeros(v.shape, "float32")) for v in variables]


def check_nothing_is_lost() -> None:
    for name in ("one bit", "float16", "late power", "warm top"):
        _require_nothing_lost(name, graph=False)


@long
def check_nothing_is_lost_by_each_method() -> None:
    for name in METHODS:
        for graph in (False, True):
            _require_nothing_lost(name, graph=graph)


def _require_nothing_lost(name: str, *, graph: bool) -> None:
    if name == "momentum":  # keeps velocities besides
        return
    variables = variables_of()
    optimizer = optimizer_with(METHODS[name](), variables)
    apply = optimizer.apply
    step = tf.function(lambda *g: apply([*g])) if graph else lambda *g: apply([*g])
    for number in range(4):
        for variable in variables:  # so that the output is not rounded in a large sum
            variable.assign(tf.zeros(variable.shape))
        old = _residuals(optimizer, variables)
        gradients = gradients_of(number, hvd.rank())
        step(*map(tf.constant, gradients))
        outputs = [-v.numpy() for v in variables]
        new = _residuals(optimizer, variables)
        left = mean_over_ranks([o + r for o, r in zip(outputs, new, strict=True)])
        right = mean_over_ranks([g + r for g, r in zip(gradients, old, strict=True)])
        for one, other in zip(left, right, strict=True):
            tolerance = TOLERANCES.get(name, 2e-6)
            np.testing.assert_allclose(one, other, atol=tolerance, rtol=0, err_msg=name)
        same = hvd.allgather_object(outputs)
        for mine, theirs in zip(same[0], same[-1], strict=True):
            np.testing.assert_array_equal(mine, theirs, err_msg=name)
    assert any(np.abs(residual).max() > 1e-5 for residual in new), name


def check_the_largest_are_exact_to_the_bit() -> None:
    """Numbers are sent or kept, and whole ones have exact sums."""
    variables = variables_of([(8, 3)])
    optimizer = optimizer_with(TopK(ratio=0.1), variables)
    given = np.zeros((8, 3))
    for number in range(5):
        rng = np.random.default_rng([number, hvd.rank()])
        gradient = rng.integers(-50, 50, (8, 3)).astype("float32") * hvd.size()
        optimizer.apply([tf.constant(gradient)])
        given += gradient
        (residual,) = kept(optimizer)
        (mean,) = mean_over_ranks([given - residual])
        np.testing.assert_array_equal(-variables[0].numpy(), mean)
        assert np.count_nonzero(residual) > 12


def check_momentum_correction_is_momentum_where_all_is_sent() -> None:
    for nesterov in (False, True):
        plain, own = variables_of(), variables_of()
        reference = keras.optimizers.SGD(0.1, momentum=0.9, nesterov=nesterov)
        reference.build(plain)
        exchange = AllReduce(TopK(ratio=1.0, momentum=0.9, nesterov=nesterov))
        optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(0.1), exchange=exchange)
        optimizer.build(own)
        everyone = range(hvd.size())
        # Masking forgets what has been sent, so velocity of one step only.
        optimizer.apply([*map(tf.constant, gradients_of(0, hvd.rank()))])
        of_ranks = [gradients_of(0, rank) for rank in everyone]
        reference.apply([tf.constant(np.mean(g, axis=0)) for g in zip(*of_ranks, strict=True)])
        for mine, expected in zip(own, plain, strict=True):
            np.testing.assert_allclose(mine.numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)


def check_momentum_is_corrected_and_masked() -> None:
    """Against the paper's equations, in NumPy, for all ranks."""
    for nesterov in (False, True):
        size, shape, momentum = hvd.size(), (5, 4), 0.5
        variables = variables_of([shape])
        optimizer = optimizer_with(TopK(0.25, momentum=momentum, nesterov=nesterov), variables)
        step = tf.function(lambda g, o=optimizer: o.apply([g]))
        u, v, weights = np.zeros((size, *shape)), np.zeros((size, *shape)), np.zeros(shape)
        for number in range(6):
            gradients = np.array([gradients_of(number, rank, [shape])[0] for rank in range(size)])
            step(tf.constant(gradients[hvd.rank()]))
            u = momentum * u + gradients
            v = v + (momentum * u + gradients if nesterov else u)
            for rank in range(size):
                place = np.argsort(-np.abs(v[rank]).ravel())[:5]
                mask = np.zeros(20, bool)
                mask[place] = True
                mask = mask.reshape(shape)
                weights -= np.where(mask, v[rank], 0) / size
                v[rank][mask] = 0
                u[rank][mask] = 0
            np.testing.assert_allclose(variables[0].numpy(), weights, atol=1e-5)
            residual, velocity = kept(optimizer)
            np.testing.assert_allclose(residual, v[hvd.rank()], atol=1e-5)
            np.testing.assert_allclose(velocity, u[hvd.rank()], atol=1e-5)


def check_low_rank_is_the_projection_of_the_mean() -> None:
    """With as many directions as the mean has, it is the mean; with all but these, a part."""
    rng = np.random.default_rng(3)
    left, right = rng.normal(size=(9, 2)), rng.normal(size=(2, 8))
    own = (left * (hvd.rank() + 1)) @ right
    low = LowRank(rank=2, min_compression=0.1)
    (variable,) = variables_of([(9, 8)])
    low.build([variable], hvd.global_process_set)
    tensor = tf.constant(own, tf.float32)
    aggregated = low.aggregate([tensor], [variable], "exact")
    mean = np.mean(hvd.allgather_object(own), axis=0)
    np.testing.assert_allclose(aggregated.mean[0], mean, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(aggregated.sent[0], own, rtol=1e-4, atol=1e-4)


def check_columns_become_orthonormal() -> None:
    rng = np.random.default_rng(5)
    column = rng.normal(size=(50, 1))
    for scale in (1.0, 1e-18, 1e18):
        alike = np.hstack([column, column + 1e-7 * rng.normal(size=(50, 1)), 2 * column])
        made = orthonormal(tf.constant(alike * scale, tf.float32)).numpy()
        np.testing.assert_allclose(made.T @ made, np.eye(3), atol=1e-5)
    made = orthonormal(tf.constant(np.hstack([column, 0 * column]), tf.float32)).numpy()
    np.testing.assert_allclose(made.T @ made, np.diag([1.0, 0.0]), atol=1e-6)
    assert not np.isfinite(orthonormal(tf.constant([[1.0], [np.nan]]))).all()
    assert not np.isfinite(orthonormal(tf.constant([[1.0], [np.inf]]))).all()


def check_zeros_do_not_end_the_directions() -> None:
    """After gradients of zeros, such as those of a frozen start, matrices are seen again."""
    (variable,) = variables_of([(8, 8)])
    optimizer = optimizer_with(PowerSGD(rank=1, min_compression=1.0), [variable])
    optimizer.apply([tf.zeros([8, 8])])
    np.testing.assert_array_equal(variable.numpy(), np.zeros((8, 8)))
    optimizer.apply([tf.ones([8, 8])])
    np.testing.assert_allclose(variable.numpy(), -np.ones((8, 8)), rtol=1e-5)


def check_half_precision() -> None:
    for name in ("late power", "momentum"):
        variables = variables_of(dtype="float16")
        optimizer = optimizer_with(METHODS[name](), variables)
        for number in range(3):
            gradients = gradients_of(number, hvd.rank())
            optimizer.apply([tf.constant(g, tf.float16) for g in gradients])
        for variable in variables:
            value = variable.numpy()
            assert value.dtype == np.float16, name
            assert np.isfinite(value).all(), name
            assert np.abs(value).max() > 0.01, name
        assert all(array.dtype in (np.float32, np.int64) for array in kept(optimizer)), name


def check_stochastic_rounding_is_unbiased() -> None:
    """The mean of many roundings is the number, and each is one of its two neighbours."""
    int8 = Int8(block=10)
    variables = variables_of([(10,)])
    optimizer = optimizer_with(int8, variables)
    gradient = np.linspace(-1, 1, 10).astype("float32") * 0.37
    gradient[0] = 1.27  # so that the scale is 0.01
    step = tf.function(lambda: optimizer.apply([tf.constant(gradient)]))
    seen = []
    for _ in range(100):
        before = variables[0].numpy()
        step()
        seen.append(before - variables[0].numpy())
    means = np.mean(seen, axis=0)
    # The spread of one is at most 0.005, of the mean over ranks and steps at most this:
    spread = 0.005 / np.sqrt(100 * hvd.size())
    np.testing.assert_allclose(means, gradient, atol=5 * spread + 1e-5)
    assert np.std(seen, axis=0).max() > 0.002 / hvd.size()
    # Each rank draws numbers of its own, so some go up on one rank only.
    rounded = np.array(seen) / 0.01 * hvd.size()
    assert (np.round(rounded) % hvd.size() != 0).any()
    assert np.abs(np.array(seen) - gradient).max() < 0.0101
    assert [int(steps) for steps in kept(optimizer)] == [100]


def check_empty_bits_and_numbers() -> None:
    """Sizes that fill no byte and no block, numbers alone, zeros, and large ones."""
    for codec in (ErrorFeedback(OneBit()), ErrorFeedback(Int8(block=4, rounding="nearest"))):
        shapes = [(17,), (), (0, 3), (2, 5)]
        variables = variables_of(shapes)
        optimizer = optimizer_with(codec, variables)
        gradients = [np.full(s, v, "float32") for s, v in zip(shapes, (3, -2, 1, 0), strict=True)]
        optimizer.apply([*map(tf.constant, gradients)])
        for variable, gradient in zip(variables, gradients, strict=True):
            np.testing.assert_allclose(variable.numpy(), -gradient, rtol=1e-6)
    assert SHAPES[-1] == ()
