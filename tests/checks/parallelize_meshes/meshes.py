"""Models over replicas, stages and tensor groups at once."""

from __future__ import annotations

import keras
from checks.marks import long
from checks.parallelize import models
from checks.parallelize.compared import divided_layers, require_same, sgd

import hvdkit as hvd


@long
def check_gpt_on_all_meshes() -> None:
    for sizes in ((2, 1, 2), (1, 2, 2), (2, 2, 1), (1, 1, 4)):
        require_same(
            lambda: models.gpt(2, dropout=0.0, tied=sizes[1] == 1),  # noqa: B023
            models.text(),
            models.logits(),
            sizes,
            optimizer=sgd,
        )


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
def check_replicas_that_share_the_optimizers_variables() -> None:
    require_same(
        models.mlp_without_noise,
        models.numbers(),
        "mse",
        (4, 1, 1),
        exchange=hvd.exchange.Sharded(),
    )
