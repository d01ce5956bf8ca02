"""What can't be divided: one error on every rank, and the model is as it was."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from checks.refused_input import _refused

import hvdkit as hvd

from . import models

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


def check_what_can_not_be_planned() -> None:
    """Before anything is allocated: the model is as it was, and there is no mesh."""
    words = keras.Input((None,), dtype="int32", name="words")
    open_ = keras.Model(words, layers.Dense(2)(layers.Embedding(8, 4)(words)), name="open")
    x = keras.Input((3,))
    code = keras.Model(x, layers.Dense(2)(Fails()(x)), name="fails")
    small = models.mlp()
    for model, options, text in (
        (open_, {}, "its input 'words' has an open size, (None, None): give length="),
        (keras.Model(x, layers.ReLU()(x), name="bare"), {}, "'bare' has no weights"),
        (code, {}, "'fails', as it can't be run on a random batch: TypeError"),
        (code, {}, "graphs only"),
        (small, {"batch_size": 0}, "batch_size of hvd.parallelize is a number above 0, not 0"),
        (small, {"cluster": "nowhere"}, "no cluster of that name"),
    ):
        kinds = (ValueError, hvd.HvdkitError)
        _refused(lambda m=model, o=options: hvd.parallelize(m, **o), kinds, text)
        assert hvd.mesh.mesh.current_mesh() is None


class Fails(layers.Layer):
    """It runs in graphs only."""

    def call(self, x: Any) -> Any:
        if tf.executing_eagerly():
            raise TypeError("graphs only")
        return x
