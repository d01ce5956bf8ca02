"""A step with NaN or Inf on one rank changes nothing on any rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.marks import long
from keras import optimizers

import hvdkit as hvd

BAD = (np.nan, np.inf, -np.inf)


def _state(optimizer: Any, variables: list[Any]) -> list[np.ndarray]:
    return [np.array(v) for v in [*variables, *optimizer.variables]]


def _last(bad: float) -> float:
    """`bad` on the last rank, a good number on the others."""
    return bad if hvd.rank() == hvd.size() - 1 else 1.0


def _runs(optimizer: Any, variables: list[Any]) -> Callable[..., None]:
    optimizer.build(variables)

    @tf.function
    def step(*gradients: Any) -> None:
        optimizer.apply(list(gradients), variables)

    return step


CASES: dict[str, Callable[[], Any]] = {
    "decay and clipping": lambda: optimizers.AdamW(0.1, weight_decay=0.1, global_clipnorm=0.5),
    "average": lambda: optimizers.SGD(
        0.1, momentum=0.9, use_ema=True, ema_overwrite_frequency=1, ema_momentum=0.5
    ),
}


@long
def check_a_bad_step_changes_nothing_and_a_good_one_does() -> None:
    for name, make in CASES.items():
        for eager in (False, True):
            variables = [
                keras.Variable([[1.0, 2.0], [3.0, 4.0]], name="w"),
                keras.Variable([1.0], name="b"),
            ]
            variables[0].constraint = keras.constraints.MaxNorm(10.0)
            optimizer = hvd.DistributedOptimizer(make(), nonfinite=hvd.nonfinite.Skip())
            step = _runs(optimizer, variables)
            run = step.python_function if eager else step
            good = [tf.ones([2, 2]) * (hvd.rank() + 1.0), tf.ones([1])]
            run(*good)
            for count, bad in enumerate(BAD, 1):
                before = _state(optimizer, variables)
                run(tf.constant([[1.0, _last(bad)], [1.0, 1.0]]), tf.ones([1]))
                for old, new in zip(before, _state(optimizer, variables), strict=True):
                    np.testing.assert_array_equal(old, new, err_msg=name)
                assert optimizer.nonfinite_steps == count
            run(*good)
            assert int(optimizer.iterations) == 2
            assert optimizer.nonfinite_steps == len(BAD)
            after = _state(optimizer, variables)
            assert all(np.isfinite(value).all() for value in after), name
            assert not np.array_equal(before[0], after[0]), name


def check_skipping_is_as_if_the_step_had_not_been() -> None:
    def train(bad_steps: bool) -> list[np.ndarray]:
        variable = keras.Variable([1.0, 2.0])
        optimizer = hvd.DistributedOptimizer(
            optimizers.Adam(0.1, gradient_accumulation_steps=2), nonfinite=hvd.nonfinite.Skip()
        )
        run = _runs(optimizer, [variable])
        for number in range(3):
            if bad_steps and number == 1:
                # NaN that waits in an accumulator until the reduction, and NaN that comes with it
                for first, second in ((_last(np.nan), 1.0), (1.0, _last(np.inf))):
                    run(tf.constant([first, 1.0]))
                    run(tf.constant([second, 1.0]))
            for _ in range(2):
                run(tf.constant([1.0 + number, float(hvd.rank())]))
        assert optimizer.nonfinite_steps == (2 if bad_steps else 0)
        return _state(optimizer, [variable])

    for disturbed, calm in zip(train(True), train(False), strict=True):
        np.testing.assert_array_equal(disturbed, calm)


def check_sparse_gradients() -> None:
    variable = keras.Variable(np.ones((4, 2), "float32"))
    optimizer = hvd.DistributedOptimizer(optimizers.SGD(0.1), nonfinite=hvd.nonfinite.Skip())
    optimizer.build([variable])
    values = tf.constant([[1.0, _last(np.nan)]])
    optimizer.apply([tf.IndexedSlices(values, tf.constant([hvd.rank() % 4]), (4, 2))], [variable])
    np.testing.assert_array_equal(variable.numpy(), np.ones((4, 2)))
    assert optimizer.nonfinite_steps == 1


def check_local_gradients_of_one_rank_stop_all() -> None:
    shared, local = keras.Variable([1.0]), keras.Variable([1.0])
    optimizer = hvd.DistributedOptimizer(optimizers.SGD(0.1), nonfinite=hvd.nonfinite.Skip())
    optimizer.register_local_var(local)
    run = _runs(optimizer, [shared, local])
    run(tf.ones([1]), tf.constant([_last(np.nan)]))
    assert optimizer.nonfinite_steps == 1
    assert (float(shared.numpy()[0]), float(local.numpy()[0])) == (1.0, 1.0)


def check_overflow_on_the_way_counts() -> None:
    variable = keras.Variable([1.0])
    optimizer = hvd.DistributedOptimizer(
        optimizers.SGD(0.1),
        op=hvd.Sum,
        compression=hvd.Compression.fp16,
        nonfinite=hvd.nonfinite.Skip(),
    )
    _runs(optimizer, [variable])(tf.constant([60000.0]))  # finite on each rank, but not the sum
    assert optimizer.nonfinite_steps == 1
    assert float(variable.numpy()[0]) == 1.0


def check_loss_scale_looks_before() -> None:
    variable = keras.Variable([1.0])
    inner = optimizers.LossScaleOptimizer(optimizers.SGD(0.1), initial_scale=4.0)
    optimizer = hvd.DistributedOptimizer(inner, nonfinite=hvd.nonfinite.Skip())
    run = _runs(optimizer, [variable])
    run(tf.constant([_last(np.inf)]))
    assert float(optimizer.dynamic_scale) == 2.0
    assert optimizer.nonfinite_steps == 0
    run(tf.constant([2.0]))
    np.testing.assert_allclose(variable.numpy(), [0.9])
