"""Exchanges of gradients on ranks of several devices: a rank calls them once for all of these.

They see what they would of a rank with one device and as many rows, which the check trains, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from checks.hybrid_replicas.comparing import BATCH, on_replicas, same_everywhere, same_weights
from checks.marks import long
from checks.reference import data, mlp

import hvdkit as hvd

exchange = hvd.exchange


def _require_as_on_one_device(make: Callable[[], Any], momentum: float = 0.0) -> None:
    def optimizer() -> Any:
        return hvd.DistributedOptimizer(
            keras.optimizers.SGD(0.05, momentum=momentum), exchange=make()
        )

    def train(model: keras.Model, rows: int) -> keras.Model:
        model.fit(
            hvd.shard(data(66), rows, shuffle=False),
            epochs=2,
            verbose=0,
            callbacks=[hvd.callbacks.BroadcastGlobalVariablesCallback(0)],
        )
        return model

    expected = mlp(100 * hvd.rank())
    start = mlp(0).get_weights()
    expected.compile(optimizer(), "mse")
    train(expected, 2 * BATCH)
    model = train(on_replicas(mlp, optimizer), BATCH)
    same_everywhere(model)
    same_weights(model, expected, rtol=1e-3, atol=1e-4)
    assert np.abs(model.get_weights()[0] - start[0]).max() > 1e-3


@long
def check_error_feedback_and_one_step_late():
    _require_as_on_one_device(
        lambda: exchange.Delayed(
            exchange=exchange.AllReduce(exchange.PowerSGD(rank=1, start_step=0))
        )
    )


@long
def check_other_exchanges_of_gradients():
    over_mpi = [lambda: exchange.AllReduce(op=hvd.Adasum)]
    for make in (
        *(over_mpi if hvd.mpi_enabled() else ()),
        lambda: exchange.AllReduce(compression=hvd.Compression.fp16),
        lambda: exchange.AllReduce(exchange.TopK(ratio=0.2)),
        exchange.Delayed,
    ):
        _require_as_on_one_device(make)
