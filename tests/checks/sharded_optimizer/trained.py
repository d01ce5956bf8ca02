"""Real trainings: `fit`, a step of one's own, a loop, and GPT on a mesh."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.checkpoints.runs import shared_folder
from checks.marks import long
from checks.reference import BATCH, compare_with_one_process, data, mlp, my_rows, same_on_all_ranks
from keras import optimizers

import hvdkit as hvd
from hvdkit.exchange import Sharded


class OwnStep(keras.Sequential):
    """A model with a training step of its own."""

    def train_step(self, data: Any) -> dict[str, Any]:
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


def _own_step(seed: int) -> keras.Model:
    return OwnStep(mlp(seed).layers)


def check_fit_as_on_one_rank() -> None:
    _compare(mlp, steps_per_execution=2)


@long
def check_own_steps_and_eagerly() -> None:
    _compare(_own_step)
    _compare(mlp, run_eagerly=True)


def _compare(build: Any, **options: Any) -> None:
    def make() -> Any:
        return optimizers.AdamW(0.02, global_clipnorm=1.0)

    compare_with_one_process(
        build,
        make,
        lambda: hvd.DistributedOptimizer(make(), exchange=Sharded()),
        compile_options=options,
    )


@long
def check_a_loop_with_a_large_kernel() -> None:
    """A kernel that travels alone, in a graph; other weights at the start on each rank."""
    models = [_wide(1), _wide(1)]
    plain = optimizers.Adam(0.01)
    optimizer = hvd.DistributedOptimizer(optimizers.Adam(0.01), exchange=Sharded())
    x, y = data(hvd.size() * BATCH * 2)

    def step(model: keras.Model, one: Any, x: Any, y: Any) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
        variables = model.trainable_variables
        one.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    graph = tf.function(lambda x, y: step(models[1], optimizer, x, y))
    for number in range(2):
        step(models[0], plain, *_global_rows(x, y, number))
        graph(my_rows(x, number), my_rows(y, number))
    same_on_all_ranks(models[1])
    for mine, expected in zip(models[1].get_weights(), models[0].get_weights(), strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-3, atol=1e-4)


def _wide(seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Dense(513, "tanh"), keras.layers.Dense(515), keras.layers.Dense(2)]
    return keras.Sequential([keras.Input((6,)), *layers])


def _global_rows(x: np.ndarray, y: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
    rows = slice(step * hvd.size() * BATCH, (step + 1) * hvd.size() * BATCH)
    return x[rows], y[rows]


def _meshes() -> Iterator[hvd.Mesh]:
    try:
        for pipeline, tensor in ((1, 2), (2, 1)):
            mesh = hvd.Mesh(data=hvd.size() // 2, pipeline=pipeline, tensor=tensor)
            hvd.set_mesh(mesh)
            yield mesh
    finally:
        hvd.set_mesh(None)


@long
def check_on_the_data_axis_of_a_mesh() -> None:
    """The shards of tensor-sharded variables are sharded again, and stages shard their own."""
    if hvd.size() % 2:
        return
    from checks.memory_plan import SHAPE, model_on

    from hvdkit import parallel

    ids = np.random.default_rng(3).integers(0, SHAPE.vocabulary, (8, SHAPE.context + 1))
    for mesh in _meshes():
        ends = []
        folders = [shared_folder(), shared_folder()]
        for exchange, folder in zip((None, Sharded()), folders, strict=True):
            hvd.set_random_seed(4)
            model = model_on(mesh, SHAPE, 2)
            optimizer = hvd.DistributedOptimizer(
                optimizers.AdamW(0.01, global_clipnorm=0.5), exchange=exchange
            )
            model.compile(optimizer, parallel.VocabularyParallelCrossEntropy())
            rows = hvd.shard((ids[:, :-1], ids[:, 1:]), 8 // mesh.data)
            history = model.fit(
                rows,
                epochs=2,
                verbose=0,
                callbacks=[hvd.callbacks.BroadcastGlobalVariablesCallback(0)],
            ).history
            ends.append((history["loss"], [v.numpy() for v in model.trainable_variables]))
            hvd.checkpoint.save(folder, model)
        np.testing.assert_allclose(ends[1][0], ends[0][0], rtol=1e-4)
        for mine, expected in zip(ends[1][1], ends[0][1], strict=True):
            np.testing.assert_allclose(mine, expected, rtol=1e-3, atol=1e-4)
        _require_same_when_resharded(*folders)


def _require_same_when_resharded(plain: Path, sharded: Path) -> None:
    """Go on from both on replicas of the whole model, with and without shards."""
    from checks.memory_plan import SHAPE
    from gpt_model import build_model

    hvd.set_mesh(hvd.Mesh())
    ends = []
    for folder, exchange in (
        (plain, None),
        (sharded, None),
        (plain, Sharded()),
        (sharded, Sharded()),
    ):
        model = build_model(SHAPE)
        optimizer = hvd.DistributedOptimizer(optimizers.AdamW(0.01), exchange=exchange)
        model.compile(optimizer)
        optimizer.build(model.trainable_variables)
        hvd.checkpoint.restore(folder, model)
        ones = [tf.ones(v.shape) * (hvd.rank() + 1.0) for v in model.trainable_variables]
        optimizer.apply(ones, model.trainable_variables)
        ends.append([v.numpy() for v in model.trainable_variables])
    for end in ends[1:]:
        for mine, expected in zip(end, ends[0], strict=True):
            np.testing.assert_allclose(mine, expected, rtol=1e-3, atol=1e-4)
