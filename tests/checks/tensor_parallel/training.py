"""Training of a small GPT: the losses and weights of its undivided twin, step for step."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.marks import long

import hvdkit as hvd
from hvdkit.mesh.mesh import Mesh, current_mesh, set_mesh
from hvdkit.parallel import assign_unsharded_values, unsharded_values

from . import meshes
from .models import gpt, loss, text
from .twins import other_weights, same_weights, twins

STEPS, ROWS = 10, 4


def _trained(
    optimizer: Any, *, steps: int = STEPS, compiling: dict[str, Any] | None = None, **options: Any
) -> tuple[keras.Model, keras.Model]:
    """A model that is divided and its twin after some steps of `fit`."""
    ids, next_ids = text(ROWS * steps)
    weights = np.random.default_rng(5).random((len(ids), 1)).astype("float32")
    models = twins(lambda divided: gpt(divided, **options))
    start = [np.array(w) for w in models[1].get_weights()]
    losses = []
    for divided, model in zip((True, False), models, strict=True):
        own = optimizer()
        own = hvd.DistributedOptimizer(own) if divided else own
        model.compile(own, loss(divided), **(compiling or {}))
        data: Any = (ids, next_ids, weights)
        if divided:
            own_rows = ROWS // current_mesh().data
            fit = {"x": hvd.shard(data, batch_size=own_rows, shuffle=False)}
        else:
            fit = dict(zip(("x", "y", "sample_weight"), data, strict=True), batch_size=ROWS)
        history = model.fit(**fit, epochs=2, shuffle=False, verbose=0)
        losses.append(history.history["loss"])
    tolerance = 1e-4 if keras.config.dtype_policy().name == "float32" else 0.05
    meshes.close(losses[0], losses[1], rtol=tolerance)
    _whole_on_each_rank_to_the_bit(models[0])
    moved = [np.abs(w - s).max() for w, s in zip(models[1].get_weights(), start, strict=True)]
    assert min(moved) > 1e-3, "the twin did not learn, so this proves nothing"
    return models


def _whole_on_each_rank_to_the_bit(model: keras.Model) -> None:
    values = unsharded_values(model.weights)
    whole = [w for v, w in zip(model.weights, values, strict=True) if v.shape == w.shape]
    assert 0 < len(whole) < len(values)
    for other in hvd.allgather_object(whole):
        for mine, theirs in zip(whole, other, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def _rate(mesh: Mesh) -> float:
    """Masks do not depend on how many ranks divide a model; replicas draw masks of their own."""
    return 0.2 if mesh.data == 1 else 0.0


def _adam() -> keras.optimizers.Optimizer:
    return keras.optimizers.AdamW(0.01, weight_decay=0.01, epsilon=1e-3)


@long
def check_sgd_with_a_clipped_norm() -> None:
    for _ in meshes.each():
        sgd = lambda: keras.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=0.5)  # noqa: E731
        same_weights(*_trained(sgd, tied=False), atol=1e-4)


@long
def check_adam() -> None:
    _require_adam(blocks=1)


@long
def check_adam_on_two_blocks() -> None:
    _require_adam(blocks=2)


def _require_adam(blocks: int) -> None:
    for mesh in meshes.each():
        divided, plain = _trained(_adam, dropout=_rate(mesh), blocks=blocks)
        same_weights(divided, plain, rtol=1e-3, atol=2e-4)
        mine = unsharded_values(divided.optimizer.variables)
        for one, other in zip(mine, plain.optimizer.variables, strict=True):
            meshes.close(one, other, rtol=1e-3, atol=2e-4)


@long
def check_sequence_parallel() -> None:
    for mesh in meshes.each():
        models = _trained(_adam, sequence_parallel=True, dropout=_rate(mesh))
        same_weights(*models, rtol=1e-3, atol=2e-4)


def _train_in(policy: str, *, sequence_parallel: bool) -> None:
    keras.config.set_dtype_policy(policy)
    set_mesh(meshes.made()[-1])
    sgd = lambda: keras.optimizers.SGD(0.1, momentum=0.9)  # noqa: E731
    models = _trained(sgd, sequence_parallel=sequence_parallel, steps=4)
    same_weights(*models, rtol=0.05, atol=0.02)


@long
def check_mixed_float16() -> None:
    _train_in("mixed_float16", sequence_parallel=True)


@long
def check_mixed_bfloat16() -> None:
    _train_in("mixed_bfloat16", sequence_parallel=False)


@long
def check_own_loop_run_eagerly() -> None:
    """A tape of the user's own, without any function."""
    for mesh in meshes.each():
        ids, next_ids = text(ROWS * 2)
        divided, plain = twins(lambda which: gpt(which, sequence_parallel=True, blocks=1))
        other_weights(divided, plain)
        optimizers = [keras.optimizers.SGD(0.1) for _ in range(2)]
        for step in range(2):
            rows = slice(step * ROWS, (step + 1) * ROWS)
            own = meshes.part_of_rows(np.arange(ROWS), mesh)
            with hvd.DistributedGradientTape(tf.GradientTape()) as tape:
                mine = loss(True)(next_ids[rows][own], divided(ids[rows][own]))
            _apply(optimizers[0], tape, mine, divided)
            with tf.GradientTape() as tape:
                expected = loss(False)(next_ids[rows], plain(ids[rows]))
            _apply(optimizers[1], tape, expected, plain)
        same_weights(divided, plain)


def _apply(optimizer: Any, tape: Any, value: tf.Tensor, model: keras.Model) -> None:
    variables = model.trainable_variables
    gradients = tape.gradient(value, [v.value for v in variables])
    optimizer.apply(gradients, variables)


@long
def check_weights_of_other_degrees() -> None:
    """Whole weights go into the model on one rank, and back, with any degree."""
    for mesh in meshes.each():
        divided, plain = twins(lambda which: gpt(which, tied=False))
        other_weights(divided, plain)
        weights = unsharded_values(divided.weights)
        set_mesh(Mesh(tensor=1) if mesh.data == 1 else meshes.made()[0])
        other = gpt(True, tied=False)
        assign_unsharded_values(other.weights, weights)
        same_weights(other, plain, rtol=0, atol=0)
        assert current_mesh() is not mesh


@long
def check_configuration_of_a_model() -> None:
    for _ in meshes.each():
        model = gpt(True, sequence_parallel=True)
        again = keras.Model.from_config(model.get_config())
        assert [v.shape for v in again.weights] == [v.shape for v in model.weights]
