"""LoRA: adapters are divided as their kernels."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from checks.marks import long
from checks.meshes.folders import shared_folder

import hvdkit as hvd
from hvdkit.mesh.layout import layout_of

from . import models
from .compared import require_same, require_weights, sgd, weights_of

layers = keras.layers


def _adapted() -> keras.Model:
    """Adapters of both layers of a pair, of one alone, of heads, and of an embedding."""
    ids = keras.Input((models.LENGTH,), dtype="int32")
    x = layers.Embedding(models.WORDS, models.FEATURES)(ids)
    x = x + layers.MultiHeadAttention(4, 3, use_bias=False)(x, x)
    h = layers.Dense(8, activation="relu")(x)
    x = x + layers.Dense(models.FEATURES)(h)
    return keras.Model(ids, layers.Dense(models.WORDS)(x), name="adapted")


def _enable(model: keras.Model) -> keras.Model:
    for layer in model._flatten_layers():
        if isinstance(layer, (layers.Dense, layers.EinsumDense, layers.Embedding)):
            layer.enable_lora(2)
    return model


@long
def check_adapters_train_as_undivided() -> None:
    require_same(
        lambda: _enable(_adapted()), models.text(), models.logits(), (1, 1, 2), optimizer=sgd
    )


def check_adapters_that_are_made_after_the_division() -> None:
    """They are sharded, alike on all ranks, and in checkpoints with every rank's part."""
    mesh = hvd.Mesh(tensor=2)
    keras.utils.set_random_seed(hvd.rank())
    model = _enable(hvd.parallelize(_adapted(), mesh, verbose=False))
    whole = weights_of(model)
    assert [w.shape for w in whole or []] == [w.shape for w in _enable(_adapted()).get_weights()]
    for name in ("lora_kernel_a", "lora_kernel_b", "lora_embeddings_a", "lora_embeddings_b"):
        assert all(
            layout_of(variable) is not None for variable in model.weights if variable.name == name
        )
    for other in hvd.allgather_object(whole):
        for mine, theirs in zip(whole or [], other, strict=True):
            np.testing.assert_array_equal(mine, theirs)
    _require_checkpoint(model)
    hvd.set_mesh(None)


def _require_checkpoint(model: keras.Model) -> None:
    """Each rank's shards get values of its own, are saved, zeroed, restored, and the same."""
    model.compile(keras.optimizers.Adam(0.01), models.logits())
    model.optimizer.build(model.trainable_variables)
    variables = [*model.weights, *model.optimizer.variables]
    rng = np.random.default_rng(hvd.rank())
    same = np.random.default_rng(7)

    def value(variable: Any) -> np.ndarray:
        layout = layout_of(variable)
        own = rng if layout is not None and layout.shards else same
        return own.integers(1, 99, variable.shape).astype(variable.dtype)

    own = [value(v) for v in variables]
    for variable, array in zip(variables, own, strict=True):
        variable.assign(array)
    with shared_folder() as folder:
        hvd.checkpoint.save(folder / "adapters", model, model.optimizer)
        hvd.barrier()
        for variable in variables:
            variable.assign(np.zeros(variable.shape, variable.dtype))
        hvd.checkpoint.restore(folder / "adapters", model, model.optimizer)
    for variable, array in zip(variables, own, strict=True):
        np.testing.assert_array_equal(variable.numpy(), array, err_msg=variable.path)
    require_weights(model, weights_of(model) or [], rtol=0, atol=0)
