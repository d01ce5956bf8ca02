"""Models of Keras's layers."""

from __future__ import annotations

import tensorflow as tf
from checks.marks import long

import hvdkit as hvd
from hvdkit.parallel.tensor import count_traffic

from . import models
from .compared import divided_layers, require_same, sgd

TENSOR, STAGES = (1, 1, 2), (1, 2, 1)


def check_mlp_over_a_tensor_group() -> None:
    model = require_same(models.mlp, models.numbers(), "mse", TENSOR)
    # Four of a pair, the dropout between two, and the last one alone.
    assert divided_layers(model) == 6


def check_gpt_over_a_tensor_group() -> None:
    model = require_same(models.gpt, models.text(), models.logits(), TENSOR, optimizer=sgd)
    # Four projections, the dropout of scores, two dense layers, the embedding.
    assert divided_layers(model) == 8


def check_a_block_needs_two_all_reduces() -> None:
    def traffic(blocks: int) -> dict[str, int]:
        model = hvd.parallelize(
            models.gpt(blocks, dropout=0.0), hvd.Mesh(tensor=hvd.size()), verbose=False
        )
        ids = models.text()[0]
        @tf.function
        def step() -> None:
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(model(ids, training=True))
            tape.gradient(loss, [v.value for v in model.trainable_variables])

        with count_traffic() as counted:
            step()
        hvd.set_mesh(None)
        return dict(counted.calls)

    one, two = traffic(1), traffic(2)
    more = {kind: two[kind] - one[kind] for kind in two}
    assert more["all-reduce"] == 4 and set(more.values()) <= {0, 4}, more


def check_gpt_in_a_pipeline() -> None:
    require_same(
        lambda: models.gpt(2, dropout=0.0), models.text(), models.logits(), STAGES, optimizer=sgd
    )


@long
def check_unet_over_a_tensor_group_and_in_a_pipeline() -> None:
    for sizes in (TENSOR, STAGES):
        require_same(models.unet, models.images(), "mse", sizes)


@long
def check_lstm_over_a_tensor_group_and_in_a_pipeline() -> None:
    for sizes in (TENSOR, STAGES):
        require_same(models.lstm, models.words_and_classes(), models.logits(), sizes, optimizer=sgd)


def check_layers_and_models_that_are_called_twice() -> None:
    model = require_same(models.called_twice, models.numbers(), "mse", TENSOR)
    # Each pair inside, the shared pair; "once" and its follower are no pair but joined.
    assert divided_layers(model) == 7
