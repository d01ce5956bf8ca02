"""Graphs in which ranks receive other shares than they send: the weights of push-sum."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from checks.gossip.values import run, start
from checks.marks import long
from keras import optimizers

import hvdkit as hvd
from hvdkit.exchange import Gossip
from hvdkit.exchange.gossip.mixing import UNITS
from hvdkit.optimizers.composition import tracked_of


@keras.saving.register_keras_serializable("checks")
class Hub:
    """Rank 0 sends to all others, and these each to the next one."""

    def targets(self, place: int, size: int, number: int) -> list[int]:
        return [*range(1, size)] if place == 0 else [(place + 1) % size]

    def period(self, size: int) -> int:
        return 1

    def get_config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Hub:
        return cls(**config)


@long
def check_weights_sum_to_the_number_of_ranks_and_the_mean_is_found() -> None:
    exchange = Gossip(Hub())
    seen = run(exchange, 40)
    size = hvd.size()
    (leaf,) = exchange._leaves
    units = hvd.allgather_object(int(leaf.units.numpy()))
    assert sum(units) == size * UNITS
    assert size < 3 or len(set(units)) > 1, units
    mean = np.mean(
        [np.concatenate([v.ravel() for v in start(rank)]) for rank in range(size)], axis=0
    )
    np.testing.assert_allclose(seen[-1], np.tile(mean, (size, 1)), rtol=1e-4, atol=1e-5)


def check_meeting_weighs_by_them() -> None:
    exchange = Gossip(Hub())
    run(exchange, 2)
    (leaf,) = exchange._leaves
    exchange.meet(leaf.variables)
    mean = [
        np.mean(each, axis=0) for each in zip(*(start(r) for r in range(hvd.size())), strict=True)
    ]
    for variable, expected in zip(leaf.variables, mean, strict=True):
        np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-5, atol=1e-6)
    assert int(leaf.units.numpy()) == UNITS


def check_weights_stay_one_in_the_graphs_by_name() -> None:
    for name in ("ring", "exponential", "one_peer_exponential"):
        exchange = Gossip(name)
        run(exchange, 4)
        assert int(exchange._leaves[0].units.numpy()) == UNITS


def check_without_weights_such_a_graph_is_refused() -> None:
    if hvd.size() < 3:
        return
    with pytest.raises(ValueError, match=r"Hub over .* push_sum=True"):
        Gossip(Hub(), push_sum=False)


def check_configs_and_rows() -> None:
    for exchange in (Gossip(), Gossip("exponential", push_sum=False), Gossip(Hub())):
        stored = keras.saving.serialize_keras_object(exchange)
        again = keras.saving.deserialize_keras_object(stored)
        assert again.get_config() == exchange.get_config()
        optimizer = hvd.DistributedOptimizer(optimizers.SGD(), exchange=exchange)
        optimizer.build([keras.Variable([1.0])])
        rows = {row.path.split("/")[1]: row for row in tracked_of(optimizer) if "/" in row.path}
        assert rows["push_sum"].same_on is None
        assert rows["rounds"].same_on is not None
