"""What can't be right is refused by name, on every rank, before training."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from checks.exchanges.kinds import ShardedRows
from checks.marks import long
from checks.sharded_optimizer.twins import as_tensors, drawn, variables
from keras import optimizers

import hvdkit as hvd
from hvdkit.exchange import Sharded


class Unclear(optimizers.SGD):
    """A rule of one's own with a slot that nobody knows the variable of."""

    def build(self, variables: list[Any]) -> None:
        super().build(variables)
        self.norms = [self.add_variable((), name="norm") for _ in variables]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        super().update_step(gradient, variable, learning_rate)


def check_arguments() -> None:
    for stage in (0, 3, "1"):
        with pytest.raises(ValueError, match="stage is 1 or 2"):
            Sharded(stage)


def check_tapes() -> None:
    variable = keras.Variable(np.ones(4))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(variable.value)
    with pytest.raises(ValueError, match="Sharded works on weights"):
        hvd.DistributedGradientTape(tape, exchange=Sharded()).gradient(loss, [variable])


def check_slots_of_unknown_variables() -> None:
    optimizer = hvd.DistributedOptimizer(Unclear(0.1), exchange=Sharded())
    with pytest.raises(NotImplementedError, match="Unclear make it with add_variable_from"):
        optimizer.build(variables())


def check_norms_over_shards_that_an_exchange_says_nothing_of() -> None:
    for options in ({"clipnorm": 1.0}, {"global_clipnorm": 1.0}):
        given = [keras.Variable(np.ones((2 * hvd.size(), 2)))]
        optimizer = hvd.DistributedOptimizer(optimizers.SGD(1.0, **options), exchange=ShardedRows())
        optimizer.build(given)
        with pytest.raises(NotImplementedError, match=r"hvd\.exchange\.Divides"):
            optimizer.apply([tf.ones((2 * hvd.size(), 2))])


@long
def check_elastic_jobs() -> None:
    from hvdkit.exchange.sharded import exchange

    before = exchange.is_elastic
    exchange.is_elastic = lambda: True
    try:
        optimizer = hvd.DistributedOptimizer(optimizers.SGD(0.1), exchange=Sharded())
        with pytest.raises(NotImplementedError, match="ranks come and go"):
            optimizer.build(variables())
    finally:
        exchange.is_elastic = before


def check_ranks_with_other_stages() -> None:
    given = variables()
    optimizer = hvd.DistributedOptimizer(
        optimizers.SGD(0.1), exchange=Sharded(1 if hvd.rank() == 0 else 2)
    )
    optimizer.build(given)
    with pytest.raises(hvd.RankMismatchError, match="stage=1 on rank 0"):
        optimizer.apply(as_tensors(drawn(0, [tuple(v.shape) for v in given])[hvd.rank()]))
