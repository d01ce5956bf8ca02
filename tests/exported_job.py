"""Ranks that divide a model, or train it apart, and export it; see test_export.py."""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np

import hvdkit as hvd


def build() -> keras.Model:
    """A model of which hvd.parallelize can divide heads, hidden units and layers."""
    ids = keras.Input((None,), dtype="int32", name="ids")
    x = keras.layers.Embedding(40, 16)(ids)
    for _ in range(2):
        x = x + keras.layers.MultiHeadAttention(4, 4)(x, x)
        h = keras.layers.Dense(32, activation="relu")(keras.layers.LayerNormalization()(x))
        x = x + keras.layers.Dense(16)(h)
    return keras.Model(ids, keras.layers.Dense(40)(x), name="divided")


def train(folder: Path, mesh: hvd.Mesh) -> None:
    """Train a divided model, and leave a checkpoint, Keras's file and an ONNX file of it."""
    keras.utils.set_random_seed(hvd.rank())  # parallelize makes the ranks alike
    model = hvd.parallelize(build(), mesh, micro_batches=2 if mesh.pipeline > 1 else None)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.5), loss)
    rng = np.random.default_rng(3)
    ids, labels = rng.integers(0, 40, (2, 8, 6))
    model.fit(hvd.shard((ids.astype("int32"), labels), 4), verbose=0)
    hvd.checkpoint.save(folder / "checkpoints", model, model.optimizer)
    model.save(folder / "undivided.keras")
    exported = hvd.export_model(model, folder / "direct.onnx", to="onnx")
    assert exported.difference.passed
    assert hvd.allgather_object(exported) == [exported] * hvd.size()
    problem = ""
    try:
        hvd.export_model(model, folder / "direct.onnx", to="onnx")
    except hvd.export.ExportError as error:
        problem = str(error)
    assert "on rank 0" in problem, problem
    assert "is there already" in problem, problem
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == []
    hvd.set_mesh(None)


def train_apart(folder: Path) -> None:
    """Leave a checkpoint between two meetings, when each rank has weights of its own."""
    keras.utils.set_random_seed(1)
    build()  # so that its layers have other names than where the checkpoint is read
    model = build()
    exchange = hvd.exchange.LocalSGD(every=64)
    optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(0.5), exchange=exchange)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss)
    rng = np.random.default_rng(hvd.rank())
    ids, labels = rng.integers(0, 40, (2, 8, 6))
    model.train_on_batch(ids.astype("int32"), labels)
    hvd.checkpoint.save(folder / "checkpoints", model, model.optimizer)
    weights = hvd.allgather_object(model.get_weights())
    assert not np.array_equal(weights[0][0], weights[1][0])
    if hvd.rank() == 0:
        model.set_weights([np.mean(each, axis=0) for each in zip(*weights, strict=True)])
        model.save(folder / "undivided.keras")
    hvd.barrier()


if __name__ == "__main__":
    hvd.init()
    way, target = sys.argv[1], Path(sys.argv[2])
    if way == "apart":
        train_apart(target)
    else:
        train(target, hvd.Mesh(tensor=2) if way == "tensor" else hvd.Mesh(pipeline=2))
    print("EXPORTED")
