"""Which server holds what; slots are nowhere else."""

from __future__ import annotations

import numpy as np
from checks.parameter_server.small import BATCH, compiled
from checks.reference import data, mlp
from keras import optimizers

import hvdkit as hvd
from hvdkit.exchange import ParameterServer
from hvdkit.exchange.owners import Owners
from hvdkit.exchange.parameter_server.messages import Layout, Push, Weights


def check_servers_hold_about_equally_many_bytes() -> None:
    rng = np.random.default_rng(0)
    for servers in range(1, 6):
        for _ in range(20):
            sizes = [int(size) for size in rng.integers(1, 1000, 12)]
            owners = Owners(servers).give(sizes)
            held = [
                sum(s for s, o in zip(sizes, owners, strict=True) if o == n) for n in range(servers)
            ]
            assert sum(held) == sum(sizes)
            assert max(held) <= sum(sizes) / servers + max(sizes)
            assert min(held) > 0


def check_slots_are_on_the_servers_only() -> None:
    servers = hvd.size() - 1
    exchange = ParameterServer(servers)
    model = compiled(mlp(0), exchange, optimizers.Adam())
    x, y = data(BATCH)
    model.fit(x, y, batch_size=BATCH, verbose=0)
    slots = [v for v in model.optimizer.variables if v.name not in ("iteration", "learning_rate")]
    owned = exchange.owned(model.trainable_variables)
    mine = [v for v in owned if v is not None]
    assert len(slots) == 2 * len(mine)
    counts = hvd.allgather_object(len(mine))
    assert counts[0] == 0
    assert min(counts[1:]) > 0
    assert sum(counts) == len(model.trainable_variables)
    moved = [bool(np.any(np.asarray(slot))) for slot in slots]
    assert all(moved), moved


def check_messages_hold_what_they_are_given() -> None:
    variables = mlp(0).trainable_variables
    layout = Layout(variables)
    values = [np.asarray(v) for v in variables]
    weights = layout.read_weights(layout.weights(Weights(7, values)))
    assert weights.slowest == 7
    push = layout.read_push(layout.push(Push(0.25, [values[0], None, values[2], None])))
    assert push.rate == 0.25
    assert [g is None for g in push.gradients] == [False, True, False, True]
    np.testing.assert_array_equal(push.gradients[2], values[2])
    for one, two in zip(weights.values, values, strict=True):
        np.testing.assert_array_equal(one, two)
