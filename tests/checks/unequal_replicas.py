"""Unequal shares of ranks that have two local devices each (`MirroredStrategy`)."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from checks.hybrid_replicas.comparing import (
    BATCH,
    on_replicas,
    same_everywhere,
    same_logs,
    same_weights,
)
from checks.reference import data, mlp
from checks.unequal.measured import measured

import hvdkit as hvd

ENVIRONMENT = {"CHECKS_CPU_DEVICES": "2"}

_STEPS = 34


def _optimizer() -> keras.optimizers.Optimizer:
    return keras.optimizers.Adam(0.02)


def _distributed() -> keras.optimizers.Optimizer:
    return hvd.DistributedOptimizer(_optimizer())


def _compare(weights: Any) -> Any:
    x, y = data(_STEPS * 4 * BATCH + 3)
    reference = mlp(0)
    reference.compile(_optimizer(), "mse", metrics=["mae"])
    alone = hvd.callbacks.ConsistencyCheck(at_start=False)
    options = {"epochs": 2, "verbose": 0, "shuffle": False}
    expected = reference.fit(x, y, batch_size=4 * BATCH, callbacks=[alone], **options).history
    model = on_replicas(mlp, _distributed, metrics=["mae"])
    sharded = hvd.shard((x, y), BATCH, shuffle=False, weights=weights)
    start = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
    same_logs(model.fit(sharded, callbacks=[start], **options).history, expected)
    same_everywhere(model)
    same_weights(model, reference)
    found = model.evaluate(sharded, verbose=0, return_dict=True)
    same_logs(found, reference.evaluate(x, y, verbose=0, return_dict=True))
    rows = reference.predict(x, verbose=0)
    np.testing.assert_allclose(model.predict(sharded, verbose=0), rows, rtol=1e-3, atol=1e-4)
    return sharded.weights


def check_fit_evaluate_and_predict() -> None:
    _compare([3, 1])


def check_a_rank_with_fewer_rows_than_devices() -> None:
    _compare([1000, 1])


def check_measured() -> None:
    with measured(lambda: [1.0, 3.0][hvd.rank()]):
        assert _compare("measured") == (1.0, 3.0)
