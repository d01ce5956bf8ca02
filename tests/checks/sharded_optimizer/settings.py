"""What goes around a rule: clipping, decay, averages, constraints, accumulation, loss scaling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.marks import long
from checks.sharded_optimizer.twins import as_tensors, drawn, require_equal_to_plain, variables
from keras import optimizers

import hvdkit as hvd
from hvdkit.exchange import Sharded

adam = optimizers.Adam
SETTINGS: dict[str, Callable[[], Any]] = {
    "clipnorm": lambda: adam(0.1, clipnorm=0.3),
    "global_clipnorm": lambda: optimizers.SGD(0.1, global_clipnorm=0.3),
    "clipvalue": lambda: adam(0.1, clipvalue=0.2),
    "average": lambda: optimizers.SGD(0.1, use_ema=True, ema_overwrite_frequency=2),
    "some decay": lambda: _decays_some(optimizers.AdamW(0.1, weight_decay=0.5)),
    "accumulated": lambda: adam(0.1, gradient_accumulation_steps=2, global_clipnorm=0.3),
    "whole and clipped": lambda: optimizers.Lamb(0.1, clipnorm=0.3, weight_decay=0.1),
}


def _decays_some(optimizer: Any) -> Any:
    optimizer.exclude_from_weight_decay(var_names=["weight_1", "weight_3"])
    return optimizer


def _constrained(given: list[keras.Variable]) -> None:
    given[0].constraint = keras.constraints.MaxNorm(1.0)
    given[3].constraint = keras.constraints.NonNeg()


@long
def check_settings() -> None:
    for number, (name, make) in enumerate(SETTINGS.items()):
        compile_step = tf.function if number == 1 else lambda step: step
        require_equal_to_plain(
            make,
            Sharded(1 + number % 2),
            what=name,
            compile_step=compile_step,
            prepare=_constrained,
        )
    require_equal_to_plain(SETTINGS["accumulated"], Sharded(2), what="stage 2")


@long
def check_sums_of_passes() -> None:
    """Horovod's `backward_passes_per_step` sums where Keras averages."""
    for stage in (1, 2):
        weights = variables()
        start = [weight.numpy() for weight in weights]
        optimizer = hvd.DistributedOptimizer(
            optimizers.SGD(0.1), exchange=Sharded(stage), backward_passes_per_step=2
        )
        optimizer.build(weights)
        shapes = [tuple(weight.shape) for weight in weights]
        both = [drawn(step, shapes) for step in range(2)]
        for of_ranks in both:
            optimizer.apply(as_tensors(of_ranks[hvd.rank()]))
        for i, (weight, first) in enumerate(zip(weights, start, strict=True)):
            summed = sum(np.mean([each[i] for each in of_ranks], axis=0) for of_ranks in both)
            np.testing.assert_allclose(weight.numpy(), first - 0.1 * summed, rtol=1e-4, atol=1e-5)


@long
def check_loss_scaling_and_several_optimizers() -> None:
    def scaled() -> Any:
        return optimizers.LossScaleOptimizer(adam(0.1, clipnorm=0.5), initial_scale=1.0)

    require_equal_to_plain(scaled, Sharded(), what="loss scaling")
    if not hasattr(optimizers, "MultiOptimizer"):
        return

    def several() -> Any:
        matrices, others = optimizers.Lamb(0.1), adam(0.1)
        return optimizers.MultiOptimizer(lambda v: matrices if len(v.shape) == 2 else others)

    require_equal_to_plain(several, Sharded(), what="several")


@long
def check_what_is_not_finite_on_one_rank_is_left_out_on_all() -> None:
    weights = variables()
    optimizer = hvd.DistributedOptimizer(
        adam(0.1, global_clipnorm=1.0), exchange=Sharded(), nonfinite=hvd.nonfinite.Skip()
    )
    optimizer.build(weights)
    step = tf.function(lambda *gradients: optimizer.apply([*gradients]))
    shapes = [tuple(weight.shape) for weight in weights]
    good = as_tensors(drawn(0, shapes)[hvd.rank()])
    step(*good)
    before = [weight.numpy() for weight in [*weights, *optimizer.variables]]
    step(good[0] * (np.nan if hvd.rank() == 0 else 1.0), *good[1:])
    for one, old in zip([*weights, *optimizer.variables], before, strict=True):
        np.testing.assert_array_equal(one.numpy(), old)
    assert optimizer.nonfinite_steps == 1


@long
def check_sparse_gradients_missing_ones_and_local_variables() -> None:
    """An embedding that travels alone, one in a bucket, and gradients for some of the variables."""
    shapes = ((2000, 131), (4, 3), (3,), (2,))
    for kind in (optimizers.Adam, optimizers.Lamb):
        plain, mine = variables(shapes), variables(shapes)
        reference = kind(0.1)
        optimizer = hvd.DistributedOptimizer(kind(0.1), exchange=Sharded())
        optimizer.register_local_var(mine[3])
        reference.build(plain)
        optimizer.build(mine)
        for step in range(2):
            of_ranks = [_sparse(step, rank) for rank in range(hvd.size())]
            own = float(hvd.rank() + 1)
            optimizer.apply_gradients(
                [
                    (of_ranks[hvd.rank()][0], mine[0]),
                    (of_ranks[hvd.rank()][1], mine[1]),
                    (tf.constant([own, own]), mine[3]),
                ]
            )
            dense = [[tf.convert_to_tensor(g).numpy() for g in each] for each in of_ranks]
            means = [np.mean(each, axis=0) for each in zip(*dense, strict=True)]
            reference.apply_gradients(
                [
                    (tf.constant(means[0]), plain[0]),
                    (tf.constant(means[1]), plain[1]),
                    (tf.constant([own, own]) / hvd.size(), plain[3]),
                ]
            )
            for one, expected in zip(mine, plain, strict=True):
                np.testing.assert_allclose(one.numpy(), expected.numpy(), rtol=2e-4, atol=2e-5)


def _sparse(step: int, rank: int) -> list[tf.IndexedSlices]:
    rng = np.random.default_rng([step, rank])
    return [
        tf.IndexedSlices(
            tf.constant(rng.normal(size=(6, columns)), tf.float32),
            tf.constant(rng.integers(0, rows, 6)),
            tf.constant([rows, columns]),
        )
        for rows, columns in ((2000, 131), (4, 3))
    ]
