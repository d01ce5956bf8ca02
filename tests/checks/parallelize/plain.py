"""Models of Keras's layers."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from checks.marks import long

import hvdkit as hvd
from hvdkit.parallel.tensor import count_traffic

from . import models
from .compared import divided_layers, require_same, sgd

TENSOR, STAGES = (1, 1, 2), (1, 2, 1)


@long
def check_mlp_over_a_tensor_group() -> None:
    model = require_same(models.mlp, models.numbers(), "mse", TENSOR)
    # Four of a pair, the dropout between two, and the last one alone.
    assert divided_layers(model) == 6


@long
def check_gpt_over_a_tensor_group() -> None:
    model = require_same(models.gpt, models.text(), models.logits(), TENSOR, optimizer=sgd)
    # Four projections, the dropout of scores, two dense layers, the embedding.
    assert divided_layers(model) == 8


def check_a_block_needs_two_all_reduces_and_the_loss_no_gathering() -> None:
    """What a step sends; the step of a compiled model gathers nothing, what it returns is."""
    model = hvd.parallelize(models.gpt(dropout=0.0), hvd.Mesh(tensor=2), verbose=False)
    placed = hvd.parallel.plan_of(model).placed
    assert sum(layer.weights for layer in placed) == models.gpt().count_params()
    ids, following = map(tf.constant, models.text())
    _require_all_reduces_of_a_block(model, ids)
    loss = models.logits()

    @tf.function
    def step(rows: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return loss(labels, model(rows, training=True))

    graph = step.get_concrete_function(ids, following).graph
    needed, waiting = set(), [graph.outputs[0].op]
    while waiting:
        operation = waiting.pop()
        if operation.name not in needed:
            needed.add(operation.name)
            waiting += [tensor.op for tensor in operation.inputs]
    kinds = {graph.get_operation_by_name(name).type for name in needed}
    assert "HorovodAllreduce" in kinds
    assert not any("gather" in kind.lower() and "Horovod" in kind for kind in kinds), kinds
    plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    whole = tf.constant(model(ids).numpy())  # without its shards
    assert whole.shape[-1] == models.WORDS
    np.testing.assert_allclose(step(ids, following), plain(following, whole), rtol=1e-5)
    hvd.set_mesh(None)


def _require_all_reduces_of_a_block(model: keras.Model, ids: tf.Tensor) -> None:
    @tf.function
    def step() -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(ids, training=True))
        tape.gradient(loss, [v.value for v in model.trainable_variables])

    with count_traffic() as counted:
        step.get_concrete_function()
    # Besides the two of a block, each way: the vectors that the embedding looks up, and the
    # gradient of what goes into it reversed.
    assert counted.calls["all-reduce"] == 4 + 2, counted.calls


@long
def check_gpt_in_a_pipeline() -> None:
    require_same(
        lambda: models.gpt(1, dropout=0.0), models.text(), models.logits(), STAGES, optimizer=sgd
    )


@long
def check_stages() -> None:
    require_same(models.mlp_without_noise, models.numbers(), "mse", STAGES, optimizer=sgd)


@long
def check_unet_over_a_tensor_group_and_in_a_pipeline() -> None:
    for sizes in (TENSOR, STAGES):
        require_same(models.unet, models.images(), "mse", sizes)


@long
def check_lstm_over_a_tensor_group_and_in_a_pipeline() -> None:
    for sizes in (TENSOR, STAGES):
        require_same(models.lstm, models.words_and_classes(), models.logits(), sizes, optimizer=sgd)


@long
def check_layers_and_models_that_are_called_twice() -> None:
    model = require_same(models.called_twice, models.numbers(), "mse", TENSOR)
    # Each pair inside, the shared pair; "once" and its follower are no pair but joined.
    assert divided_layers(model) == 7
