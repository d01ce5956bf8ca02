"""hvd.elastic.run, and what was traced for other ranks."""

from __future__ import annotations

from typing import Any

import keras
import pytest
import tensorflow as tf
from checks.elastic.models import require_equal
from checks.reference import data, mlp

import hvdkit as hvd
from hvdkit.engine.elastic import HostUpdateResult, count_world, is_elastic

O = keras.optimizers  # noqa: E741


def check_a_function_traced_for_other_ranks_reduces_over_those_that_there_are() -> None:
    """It reads the number of ranks when it runs."""
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
        first = [g.numpy() for g in reduced]
        for other in hvd.allgather_object(first):
            require_equal(first, other)
        count_world()
        require_equal([g.numpy() for g in gradients()[:-1]], first)


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
