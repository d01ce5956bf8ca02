"""An exchange whose ranks update different shards of the variables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.exchanges.kinds import ShardedRows
from checks.marks import long
from checks.reference import BATCH, data, mlp, my_rows, same_on_all_ranks
from keras import optimizers

import hvdkit as hvd
from hvdkit.optimizers.composition import tracked_of

KINDS: dict[str, Callable[[], Any]] = {
    "momentum": lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "adam": lambda: optimizers.Adam(0.1, clipvalue=0.5),
    "decay": lambda: optimizers.AdamW(0.1, weight_decay=0.1),
    "some_decay": lambda: _decays_some(optimizers.AdamW(0.1, weight_decay=0.5)),
    "averaged": lambda: optimizers.SGD(0.1, use_ema=True, ema_overwrite_frequency=2),
    "accumulated": lambda: optimizers.Adam(0.1, gradient_accumulation_steps=2),
}


def _decays_some(optimizer: Any) -> Any:
    optimizer.exclude_from_weight_decay(var_names=["left_out"])
    return optimizer


@long
def check_equal_to_the_plain_optimizer() -> None:
    for name, make in KINDS.items():
        for compile_step in (lambda step: step, tf.function):
            _compare(name, make, compile_step)


def _compare(name: str, make: Callable[[], Any], compile_step: Callable[[Any], Any]) -> None:
    rows = 2 * hvd.size()
    start = [np.arange(rows * 3.0).reshape(rows, 3) / 10, np.arange(3.0), np.ones((rows + 1, 2))]
    norm = keras.constraints.MaxNorm(2.0)
    names = ["left_out", "vector", "matrix"]
    plain, sharded = (
        [keras.Variable(v, dtype="float32", name=n) for v, n in zip(start, names, strict=True)]
        for _ in range(2)
    )
    for variable in (plain[0], sharded[0]):
        variable.constraint = norm
    reference = make()
    optimizer = hvd.DistributedOptimizer(make(), exchange=ShardedRows())
    reference.build(plain)
    optimizer.build(sharded)
    step = compile_step(lambda *gradients: optimizer.apply([*gradients]))
    for number in range(4):
        drawn = [
            [np.random.default_rng([number, rank]).normal(size=v.shape) for v in start]
            for rank in range(hvd.size())
        ]
        step(*[tf.constant(g, tf.float32) for g in drawn[hvd.rank()]])
        means = [np.mean(of_ranks, axis=0) for of_ranks in zip(*drawn, strict=True)]
        reference.apply([tf.constant(mean, tf.float32) for mean in means])
        for mine, expected in zip(sharded, plain, strict=True):
            np.testing.assert_allclose(
                mine.numpy(), expected.numpy(), rtol=1e-4, atol=1e-5, err_msg=name
            )


def check_slots_are_as_large_as_what_a_rank_owns() -> None:
    rows = 2 * hvd.size()
    variables = [keras.Variable(np.ones((rows, 3))), keras.Variable(np.ones(3))]
    optimizer = hvd.DistributedOptimizer(
        optimizers.Adam(gradient_accumulation_steps=2), exchange=ShardedRows()
    )
    optimizer.build(variables)
    assert optimizer._momentums[0].shape == optimizer._velocities[0].shape == (2, 3)
    if hvd.rank():
        assert optimizer._momentums[1] is None
    else:
        assert optimizer._momentums[1].shape == (3,)
    # Gradients are added up before the ranks reduce them.
    assert [v.shape for v in optimizer._accumulated_gradients] == [(rows, 3), (3,)]
    own = [row.variable for row in tracked_of(optimizer) if row.same_on is None]
    assert [v.shape for v in own] == [(2, 3)] * 3  # the shard, and its two slots


@long
def check_in_fit_and_in_a_loop() -> None:
    steps = 4
    x, y = data(hvd.size() * BATCH * steps)
    reference = mlp(2)
    reference.compile(optimizers.Adam(0.02), "mse")
    reference.fit(x, y, batch_size=hvd.size() * BATCH, shuffle=False, verbose=0)
    own_x = np.concatenate([my_rows(x, step) for step in range(steps)])
    own_y = np.concatenate([my_rows(y, step) for step in range(steps)])
    alone = hvd.callbacks.ConsistencyCheck(at_start=False)
    models = [mlp(2), mlp(2)]
    optimizer = hvd.DistributedOptimizer(optimizers.Adam(0.02), exchange=ShardedRows())
    models[0].compile(optimizer, "mse")
    models[0].fit(own_x, own_y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[alone])

    optimizer = hvd.DistributedOptimizer(optimizers.Adam(0.02), exchange=ShardedRows())

    @tf.function
    def step(x: tf.Tensor, y: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((models[1](x, training=True) - y) ** 2)
        variables = models[1].trainable_variables
        gradients = tape.gradient(loss, variables)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))

    for number in range(steps):
        step(my_rows(x, number), my_rows(y, number))
    for model in models:
        same_on_all_ranks(model)
        for mine, expected in zip(model.get_weights(), reference.get_weights(), strict=True):
            np.testing.assert_allclose(mine, expected, rtol=1e-3, atol=1e-4)
