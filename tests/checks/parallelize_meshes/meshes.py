"""Models over replicas, stages and tensor groups at once."""

from __future__ import annotations

import keras
from checks.hearing import heard
from checks.marks import long
from checks.parallelize import models
from checks.parallelize.compared import divided_layers, require_same, sgd

import hvdkit as hvd


def _gpt(*sizes: int) -> None:
    data, stages, tensor = sizes
    require_same(
        lambda: models.gpt(2, dropout=0.0, tied=stages == 1),
        models.text(),
        models.logits(),
        (data, stages, tensor),
        optimizer=sgd,
    )


@long
def check_gpt_over_replicas_and_tensor_groups() -> None:
    with heard() as texts:
        _gpt(2, 1, 2)
    # Data of `hvd.shard` is divided over replicas, though all have the same arrays.
    assert not any("train on the same rows" in text for text in texts), texts


@long
def check_gpt_over_stages_of_tensor_groups() -> None:
    _gpt(1, 2, 2)


@long
def check_gpt_over_replicas_of_stages() -> None:
    _gpt(2, 2, 1)


@long
def check_gpt_over_a_tensor_group_of_four() -> None:
    _gpt(1, 1, 4)


@long
def check_heads_that_do_not_divide_stay_whole() -> None:
    """Two heads over four ranks: query, key and value are whole, the rest is divided."""

    def build() -> keras.Model:
        ids = keras.Input((models.LENGTH,), dtype="int32")
        x = keras.layers.ReversibleEmbedding(models.WORDS, models.FEATURES)(ids)
        x = x + keras.layers.MultiHeadAttention(2, 6, use_bias=False)(x, x)
        x = keras.layers.Dense(4)(keras.layers.Dense(8, activation="relu")(x))
        return keras.Model(ids, x, name="two_heads")

    model = require_same(build, models.text_and_classes(), models.logits(), (1, 1, 4))
    said = hvd.parallel.plan_of(model).layers
    assert any("(heads, units) 2 does not divide by 4" in how for how in said.values()), said
    # Two dense layers, the embedding, and the output of the attention, which is gathered.
    assert divided_layers(model) == 4


@long
def check_replicas_of_stages_that_share_the_optimizers_variables() -> None:
    """What the planner may choose."""
    require_same(
        models.mlp_without_noise,
        models.numbers(),
        "mse",
        (2, 2, 1),
        exchange=hvd.exchange.Sharded,
    )


@long
def check_replicas_that_share_the_optimizers_variables() -> None:
    require_same(
        models.mlp_without_noise,
        models.numbers(),
        "mse",
        (4, 1, 1),
        exchange=hvd.exchange.Sharded,
    )
