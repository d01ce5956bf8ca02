"""Rows and norms are those of the whole job, however the model lies over the ranks."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from checks.meshes import made
from checks.meshes.models import gpt
from checks.monitor.kept import monitored
from checks.tensor_parallel.models import loss, text

import hvdkit as hvd
from hvdkit.mesh.mesh import Mesh

ROWS, STEPS = 8, 3


def _norm_of_one_process() -> float:
    """Of the second step; the first one updates nothing."""
    keras.utils.set_random_seed(1)
    model = gpt(False)
    ids, next_ids = text(ROWS * STEPS)
    rows = slice(ROWS, 2 * ROWS)
    with tf.GradientTape() as tape:
        value = loss(False)(next_ids[rows], model(ids[rows], training=True))
    gradients = tape.gradient(value, model.trainable_variables)
    return float(tf.linalg.global_norm([tf.convert_to_tensor(g) for g in gradients]))


def _check(mesh: Mesh) -> None:
    model = made.language_model(1)
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.0)), loss(True))
    shard = hvd.shard(text(ROWS * STEPS), ROWS // mesh.data, shuffle=False)
    kept = monitored(model, shard, every=1)
    sample = kept.of_steps[0]
    np.testing.assert_allclose(sample.values["gradient_norm"], _norm_of_one_process(), rtol=1e-3)
    # Ranks of one replica read the same rows, which count once.
    each = [r.values["rows_per_second"] * r.values["step_seconds"] for r in sample.ranks]
    np.testing.assert_allclose(sum(each) / (hvd.size() / mesh.data), ROWS)
    values = sample.values
    np.testing.assert_allclose(values["rows_per_second"] * values["step_seconds"], ROWS)
    assert kept.jobs[0].parameters["tensor"] == mesh.tensor
    assert "compute_seconds" in sample.values
    if mesh.pipeline > 1:
        assert any("pipeline" in name for name in sample.sent), sample.sent


def check_replicas_of_tensor_groups() -> None:
    with made.using((2, 1, 2)) as mesh:
        _check(mesh)


def check_replicas_of_pipelines() -> None:
    with made.using((2, 2, 1)) as mesh:
        _check(mesh)


def check_stages_of_tensor_groups() -> None:
    with made.using((1, 2, 2)) as mesh:
        _check(mesh)
