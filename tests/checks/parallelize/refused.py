"""What can't be divided: one error on every rank, and the model is as it was."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from checks.refused_input import _refused

import hvdkit as hvd

from . import models
from .compared import divided_layers

layers = keras.layers


class OwnStep(keras.Model):
    def train_step(self, data: Any) -> Any:
        return super().train_step(data)


class Subclass(keras.Model):
    def call(self, x: Any) -> Any:
        return x


def _odd(x: Any) -> keras.Model:
    hidden = layers.Dense(3, name="odd")(x)
    return keras.Model(x, layers.Dense(3, name="last")(hidden), name="small")


def check_models_that_are_refused() -> None:
    x = keras.Input((5,))
    trained = models.mlp()
    trained.compile("sgd", "mse")
    trained.train_on_batch(*models.numbers())
    mesh = hvd.Mesh(tensor=2)
    for model, text in (
        (keras.Sequential([layers.Dense(2)], name="open"), "'open' is not built"),
        (Subclass(), "can't be cut"),
        (OwnStep(x, layers.Dense(2)(x)), "train_step"),
        (_odd(x), "odd (Dense): its number of outputs (heads, units) 3 does not divide by 2"),
        (trained, "has been trained"),
        ("model", "not str"),
    ):
        _refused(lambda model=model: hvd.parallelize(model, mesh), ValueError, text)
        assert hvd.mesh.mesh.current_mesh() is None
    small = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    _refused(lambda: hvd.parallelize(small, hvd.Mesh(pipeline=2)), ValueError, "1 stages at most")
    different = keras.Sequential([keras.Input((4,)), layers.Dense(2 + 2 * hvd.rank())])
    _refused(lambda: hvd.parallelize(different, mesh), hvd.RankMismatchError, "differ between")


def check_a_model_is_divided_once() -> None:
    model = hvd.parallelize(models.mlp(), hvd.Mesh(tensor=2), verbose=False)
    hvd.set_mesh(None)
    _refused(lambda: hvd.parallelize(model, hvd.Mesh(tensor=2)), ValueError, "divided already")


def check_what_fits_is_replicated() -> None:
    """Without a mesh, a model that fits is replicated, with rank 0's weights on all ranks."""
    keras.utils.set_random_seed(hvd.rank())
    model = hvd.parallelize(models.mlp(), verbose=False)
    assert divided_layers(model) == 0
    mine = np.concatenate([w.ravel() for w in model.get_weights()])
    for other in hvd.allgather_object(mine):
        np.testing.assert_array_equal(mine, other)
    plan = hvd.parallel.plan_of(model)
    assert plan.mesh.startswith(f"data {hvd.size()} x pipeline 1 x tensor 1 ("), plan.mesh
    model.compile("sgd", "mse")
    model.fit(hvd.shard(models.numbers(), 4), verbose=0)
    hvd.set_mesh(None)
