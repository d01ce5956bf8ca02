"""Replicas of several ranks with unequal shares: weights are for replicas."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from checks.meshes import made
from checks.meshes.training import train_undivided
from checks.pipelines_over_data.replicas import build, require_weights
from checks.pipelines_over_data.replicas import data as numbers
from checks.tensor_parallel.models import loss, text
from checks.unequal.measured import measured

import hvdkit as hvd
from hvdkit.parallel import PipelineModel

ROWS, STEPS = 8, 3


def _adamw() -> keras.optimizers.Optimizer:
    return keras.optimizers.AdamW(0.01, epsilon=1e-3)


def _fitted(mesh: hvd.Mesh, data: Any) -> tuple[keras.Model, list[float]]:
    hvd.set_mesh(mesh)
    model = made.language_model(1 + mesh.data_index)
    model.compile(hvd.DistributedOptimizer(_adamw()), loss(True))
    start = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
    history = model.fit(data(), epochs=2, verbose=0, callbacks=[start]).history
    return model, history["loss"]


def check_layers_over_ranks() -> None:
    weights, expected = hvd.broadcast_object(train_undivided(_adamw()) if hvd.rank() == 0 else None)
    keras.backend.clear_session()  # rank 0 has counted layers that others have not
    mesh = hvd.Mesh(data=2, tensor=2)
    given = text(ROWS * STEPS)
    model, losses = _fitted(
        mesh, lambda: hvd.shard(given, ROWS // 2, shuffle=False, weights=[5, 2])
    )
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    made.require_weights(model, weights, rtol=1e-3, atol=2e-4)
    with pytest.raises(ValueError, match="weights has 4 numbers for 2 ranks"):
        hvd.shard(given, ROWS // 2, weights=[1, 2, 3, 4])


def check_the_slowest_rank_of_a_replica_counts() -> None:
    mesh = hvd.Mesh(data=2, tensor=2)
    hvd.set_mesh(mesh)
    speeds = [9.0, 3.0, 1.0, 8.0]
    data = hvd.shard(text(ROWS * 30), ROWS // 2, shuffle=False, weights="measured")
    with measured(lambda: speeds[hvd.rank()]):
        _fitted(mesh, lambda: data)
    assert data.weights == (3.0, 1.0)


def check_stages_over_ranks() -> None:
    mesh = hvd.Mesh(data=2, pipeline=2)
    hvd.set_mesh(mesh)
    x, y = numbers(41)
    keras.utils.set_random_seed(3)
    reference = build()
    reference.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    alone = hvd.callbacks.ConsistencyCheck(at_start=False)
    expected = reference.fit(
        x, y, batch_size=12, epochs=3, shuffle=False, verbose=0, callbacks=[alone]
    ).history
    keras.utils.set_random_seed(3)
    model = PipelineModel(build, micro_batches=2)
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1, momentum=0.9)), "mse")
    data = hvd.shard((x, y), 6, shuffle=False, weights=[2, 1])
    history = model.fit(data, epochs=3, verbose=0).history
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-4)
    require_weights(model, reference)
    for wrong, text_of_error in (([3, 1], "can't be divided"), ("measured", "any number of rows")):
        uneven = hvd.shard((x, y), 6, weights=wrong)
        with pytest.raises(ValueError, match=text_of_error):
            model.fit(uneven, verbose=0)
