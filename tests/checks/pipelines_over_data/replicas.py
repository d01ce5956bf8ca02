"""Two replicas of a pipeline of two stages train as the unsplit model does in one process."""

from __future__ import annotations

import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from checks.pipeline_parallel.comparison import require_close, seeded

import hvdkit as hvd
from hvdkit.mesh.mesh import Mesh, current_mesh, set_mesh
from hvdkit.parallel import PipelineModel, schedules

STAGES = 2


def build() -> keras.Model:
    l2 = keras.regularizers.L2(0.01)
    layers = [keras.layers.Dense(8, activation="tanh", kernel_regularizer=l2) for _ in range(7)]
    return keras.Sequential([keras.Input((6,)), *layers, keras.layers.Dense(2)])


def data(rows: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 6)).astype("float32")
    return x, (x @ rng.normal(size=(6, 2))).astype("float32")


def mesh_of_replicas() -> Mesh:
    mesh = current_mesh()
    if mesh is None:
        mesh = Mesh(pipeline=STAGES)
        set_mesh(mesh)
    assert mesh.data == hvd.size() // STAGES
    return mesh


def require_weights(model: PipelineModel, reference: keras.Model) -> None:
    weights = model.gather_weights()
    for mine, variable in zip(weights or [], reference.weights if weights else [], strict=True):
        require_close(variable.path, mine, variable.numpy())


def check_rows_of_all_replicas() -> None:
    """With data from hvd.shard that does not divide, and a clipped norm over stages."""
    mesh = mesh_of_replicas()
    x, y = data(41)
    reference = seeded(build)
    reference.compile(
        keras.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=0.5), "mse", metrics=["mae"]
    )
    expected = reference.fit(
        hvd_order(x, y), epochs=4, verbose=0, callbacks=[no_comparison()]
    ).history
    model = seeded(lambda: PipelineModel(build, micro_batches=3))
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=0.5), "mse", metrics=["mae"]
    )
    train = hvd.shard((x, y), batch_size=6, shuffle=False)
    history = model.fit(train, epochs=4, verbose=0).history
    for name, values in expected.items():
        require_close(name, history[name], values)
    require_weights(model, reference)
    assert len(hvd.allgather_object(model.count_params())) == mesh.data * STAGES
    found = model.evaluate(hvd.shard((x, y), batch_size=6), verbose=0, return_dict=True)
    wanted = reference.evaluate(x, y, verbose=0, return_dict=True)
    for name, value in wanted.items():
        require_close(name, found[name], value)
    outputs = model.predict(hvd.shard(x, batch_size=6), verbose=0)
    require_close("predict", outputs, reference.predict(x, verbose=0))


def hvd_order(x: np.ndarray, y: np.ndarray) -> tf.data.Dataset:
    """The global batches, in the order of the rows."""
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(6 * mesh_of_replicas().data)


def no_comparison() -> keras.callbacks.Callback:
    return hvd.callbacks.ConsistencyCheck(at_start=False)


def check_replicas_start_and_stay_alike() -> None:
    """Each rank draws weights of its own; the first replica's are sent to the others."""
    mesh = mesh_of_replicas()
    x, y = data(24)
    model = seeded(lambda: PipelineModel(build, micro_batches=2), seed=10 + mesh.data_index)
    model.compile(hvd.DistributedOptimizer(keras.optimizers.Adam(0.01)), "mse")
    first = model.gather_weights()
    start = hvd.broadcast_object(first)
    own_rows = slice(mesh.data_index, None, mesh.data)
    callbacks = [
        hvd.callbacks.BroadcastGlobalVariablesCallback(0),
        hvd.callbacks.ConsistencyCheck(every_n_steps=2),
    ]
    model.fit(x[own_rows], y[own_rows], batch_size=6, shuffle=False, verbose=0, callbacks=callbacks)
    reference = seeded(build)
    reference.set_weights(start)
    reference.compile(keras.optimizers.Adam(0.01), "mse")
    reference.fit(
        x, y, batch_size=6 * mesh.data, shuffle=False, verbose=0, callbacks=[no_comparison()]
    )
    require_weights(model, reference)


def check_one_file_of_the_unsplit_model() -> None:
    mesh_of_replicas()
    folder = Path(hvd.broadcast_object(tempfile.mkdtemp()))
    x, y = data(24)
    model = seeded(lambda: PipelineModel(build, micro_batches=4, schedule=schedules.Interleaved(2)))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    checkpoint = hvd.callbacks.ModelCheckpoint(folder / "checkpoint.keras")
    model.fit(hvd.shard((x, y), batch_size=4), epochs=2, verbose=0, callbacks=[checkpoint])
    predicted = model.predict(x, verbose=0)
    loaded = keras.models.load_model(folder / "checkpoint.keras")
    require_close("predict", loaded.predict(x, verbose=0), predicted)
    other = seeded(lambda: PipelineModel(build, micro_batches=2), seed=3)
    other.load_weights(folder / "checkpoint.keras")
    require_close("loaded", other.predict(x, verbose=0), predicted)
