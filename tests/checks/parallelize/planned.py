"""Meshes that the planner chooses: for real ranks, on clusters that are given or measured."""

from __future__ import annotations

import os
from pathlib import Path

import keras
import numpy as np
from checks.marks import long
from checks.meshes.folders import shared_folder
from checks.refused_input import _refused

import hvdkit as hvd
from hvdkit.mesh.mesh import current_mesh

from . import models
from .compared import alone, on_this_rank, require_weights, sgd, weights_of

CLUSTER = """
name: {name}
hosts:
  - devices: 2
    device:
      name: tiny
      rates: {{32-bit: {{peak: 1 TFLOP/s, attainable: 1 TFLOP/s}}}}
      memory: {memory}
      bandwidth: 100 GB/s
links:
  inside: {{bandwidth: {bandwidth}, latency: 1 us}}
"""


def check_the_mesh_that_is_planned() -> None:
    """What fits is replicated; what does not is sharded; for less memory it is an error."""
    keras.utils.set_random_seed(hvd.rank())
    model = hvd.parallelize(models.counting(), verbose=False)  # on what is measured here
    plan = hvd.parallel.plan_of(model)
    assert "planned for this job, 64 rows a step" in plan.mesh, plan.mesh
    assert len(set(hvd.allgather_object((plan.mesh, *plan.others.items())))) == 1
    whole = weights_of(model)
    for other in hvd.allgather_object(whole):
        for mine, theirs in zip(whole or [], other, strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert whole is None or float(whole[2]) == 0, "trying the model has changed its state"
    hvd.set_mesh(None)
    with shared_folder() as folder:
        _on_clusters(folder)
    hvd.set_mesh(None)


def _on_clusters(folder: Path) -> None:
    def cluster(name: str, memory: str, bandwidth: str = "100 MB/s") -> str:
        file = folder / f"{name}.yaml"
        if hvd.rank() == 0:  # the others need not have it
            file.write_text(CLUSTER.format(name=name, memory=memory, bandwidth=bandwidth))
        return str(file)

    model = on_this_rank(models.counting)
    _refused(
        lambda: hvd.parallelize(model, cluster=cluster("none", "1 kB"), batch_size=8),
        ValueError,
        "'counting' fits on no mesh of 2 ranks with batches of 8 rows: data",
        "a rank needs",
    )
    assert current_mesh() is None
    os.environ["HVDKIT_CLUSTER"] = cluster("small", "7.5 kB") if hvd.rank() == 0 else "another"
    try:
        divided = hvd.parallelize(model, batch_size=8, exchange=hvd.exchange.AllReduce())
    finally:
        del os.environ["HVDKIT_CLUSTER"]
    mesh = current_mesh()
    assert mesh is not None
    assert (mesh.data, mesh.pipeline, mesh.tensor) != (2, 1, 1)
    others = hvd.parallel.plan_of(divided).others
    why = others["data 2 x pipeline 1 x tensor 1, all-reduce"]
    assert "a rank needs" in why, others


@long
def check_a_planned_training_is_that_of_one_process() -> None:
    """Slow links and large layers of little memory: shards or stages, and the same training."""

    def build() -> keras.Model:
        return models.counting(counts=False)

    plain, expected = alone(build, _numbers(), "mse", sgd)
    with shared_folder() as folder:
        file = folder / "small.yaml"
        if hvd.rank() == 0:
            file.write_text(CLUSTER.format(name="small", memory="7.5 kB", bandwidth="1 GB/s"))
        hvd.barrier()
        model = hvd.parallelize(on_this_rank(build), cluster=file, batch_size=8, verbose=False)
    mesh = current_mesh()
    assert mesh is not None
    model.compile(sgd(), "mse")
    data = hvd.shard(_numbers(), 8 // mesh.data, shuffle=False)
    losses = model.fit(data, epochs=2, shuffle=False, verbose=0).history["loss"]
    np.testing.assert_allclose(losses, expected, rtol=1e-3)
    require_weights(model, plain.get_weights(), rtol=1e-3, atol=1e-4)
    hvd.set_mesh(None)


def _numbers() -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(models.ROWS, 8)).astype("float32")
    return x, x[:, :4] * x[:, 4:]
