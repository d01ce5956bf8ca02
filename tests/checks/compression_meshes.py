"""Compression over the replicas of a model whose layers are sharded: 4 ranks, 2 by 2."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.compression.methods import METHODS
from checks.marks import long
from checks.meshes import made
from checks.meshes.folders import shared_folder
from checks.tensor_parallel.models import loss, text

import hvdkit as hvd
from hvdkit.exchange import AllReduce
from hvdkit.mesh.mesh import current_mesh
from hvdkit.optimizers.composition import tracked_of

SIZES = (2, 1, 2)
ROWS, STEPS = 8, 3


def _model(name: str, nonfinite: Any = None, **clipping: float) -> keras.Model:
    keras.backend.clear_session()  # names without a number, which are those of a new process
    model = made.language_model(1 + hvd.rank() // 2)
    optimizer = hvd.DistributedOptimizer(
        keras.optimizers.SGD(0.1, name="sgd", **clipping),
        exchange=AllReduce(METHODS[name]()),
        nonfinite=nonfinite,
    )
    model.compile(optimizer, loss(True))
    model.optimizer.build(model.trainable_variables)
    return model


def _fit(model: keras.Model, epochs: int = 1) -> None:
    model.fit(
        hvd.shard(text(ROWS * STEPS), ROWS // 2, shuffle=False),
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[
            hvd.callbacks.BroadcastGlobalVariablesCallback(0),
            hvd.callbacks.ConsistencyCheck(every_n_steps=1),
        ],
    )


def _values(model: keras.Model) -> list[np.ndarray]:
    kept = [row.variable for row in tracked_of(model.optimizer)]
    return [np.array(v) for v in (*model.variables, *model.optimizer.variables, *kept)]


def _require_replicas_alike(model: keras.Model) -> None:
    mesh = current_mesh()
    assert mesh is not None
    shared = [np.array(row.variable) for row in tracked_of(model.optimizer) if row.same_on]
    everyone = hvd.allgather_object((mesh.tensor_index, shared))
    for tensor_index, values in everyone:
        if tensor_index == mesh.tensor_index:
            for mine, other in zip(shared, values, strict=True):
                np.testing.assert_array_equal(mine, other)


@long
def check_trained_saved_and_resumed() -> None:
    for name in ("power", "momentum", "stochastic"):
        with made.using(SIZES), shared_folder() as folder:
            model = _model(name, global_clipnorm=1.0)
            _fit(model)
            _require_replicas_alike(model)
            hvd.checkpoint.save(folder / "one", model, model.optimizer)
            expected = _values(model)
            again = _model(name, global_clipnorm=1.0)
            hvd.checkpoint.restore(folder / "one", again, again.optimizer)
            for mine, other in zip(_values(again), expected, strict=True):
                np.testing.assert_array_equal(mine, other, err_msg=name)


@long
def check_nan_is_left_out_though_norms_of_shards_are_clipped() -> None:
    for clipping in ({"clipnorm": 1.0}, {"global_clipnorm": 1.0}, {}):
        with made.using(SIZES):
            model = _model("power", nonfinite=hvd.nonfinite.Skip(), **clipping)
            variables = model.trainable_variables
            before = _values(model)
            bad = np.nan if hvd.rank() == hvd.size() - 1 else 1.0
            model.optimizer.apply([tf.fill(v.shape, np.float32(bad)) for v in variables])
            for old, new in zip(before, _values(model), strict=True):
                np.testing.assert_array_equal(old, new)
            assert model.optimizer.nonfinite_steps == 1
