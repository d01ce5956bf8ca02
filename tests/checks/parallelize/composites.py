"""Layers of one's own that have layers inside."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from checks.marks import long

import hvdkit as hvd

from . import models
from .compared import divided_layers, require_same, sgd

layers, ops = keras.layers, keras.ops
HEADS, GROUPS, SIZE = 4, 2, 3


class GroupedAttention(layers.Layer):
    """Query heads that share keys and values, rotated by their position."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        into = "bsf,fhd->bshd"
        self.query = layers.EinsumDense(into, (None, HEADS, SIZE))
        self.key = layers.EinsumDense(into, (None, GROUPS, SIZE), bias_axes="hd")
        self.value = layers.EinsumDense(into, (None, GROUPS, SIZE))
        self.out = layers.EinsumDense("bshd,hdf->bsf", (None, models.FEATURES), bias_axes="f")
        self.dropout = layers.Dropout(0.2)

    def call(self, x: Any, training: bool | None = None) -> Any:
        places = ops.arange(ops.shape(x)[1], dtype="float32")[None, :, None, None]
        query, key = (y * ops.cos(places) for y in (self.query(x), self.key(x)))
        key = ops.repeat(key, HEADS // GROUPS, axis=2)
        value = ops.repeat(self.value(x), HEADS // GROUPS, axis=2)
        scores = ops.softmax(ops.einsum("bqhd,bkhd->bhqk", query, key))
        scores = self.dropout(scores, training=training)
        return self.out(ops.einsum("bhqk,bkhd->bqhd", scores, value))


class Block(layers.Layer):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.norms = [layers.LayerNormalization() for _ in range(2)]
        self.attention = GroupedAttention()
        self.up, self.down = layers.Dense(16), layers.Dense(models.FEATURES)
        self.gate = layers.Dense(16, activation="silu")

    def call(self, x: Any, training: bool | None = None) -> Any:
        x = x + self.attention(self.norms[0](x), training=training)
        h = self.norms[1](x)
        return x + self.down(self.up(h) * self.gate(h))


class HeadsInTheShape(layers.Layer):
    """Its number of heads is in the shapes that its call asks for."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inner, self.out = layers.Dense(12), layers.Dense(models.FEATURES)

    def call(self, x: Any) -> Any:
        h = ops.reshape(self.inner(x), (-1, models.LENGTH, HEADS, SIZE))
        return x + self.out(ops.reshape(h * ops.sigmoid(h), (-1, models.LENGTH, HEADS * SIZE)))


class OtherInTraining(layers.Layer):
    """In training it looks at all of what would be sharded, which a trace of inference hides."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inner, self.out = layers.Dense(12), layers.Dense(models.FEATURES)

    def call(self, x: Any, training: bool | None = None) -> Any:
        h = self.inner(x)
        if training:
            h = ops.softmax(h)
        return x + self.out(h)


class OutOfKeras(layers.Layer):
    """Its call is TensorFlow's code, which Keras can't note."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inner, self.out = layers.Dense(12), layers.Dense(models.FEATURES)

    def call(self, x: Any) -> Any:
        return x + self.out(tf.nn.relu(self.inner(tf.identity(x))))


class Learned(layers.Layer):
    """A gain, learned and whole, times what would be sharded: its gradient would be a part."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inner, self.out = layers.Dense(12), layers.Dense(models.FEATURES)
        self.gain = layers.Dense(1)

    def call(self, x: Any) -> Any:
        return x + self.out(self.inner(x) * self.gain(x))


def _around(*blocks: type) -> keras.Model:
    ids = keras.Input((models.LENGTH,), dtype="int32")
    embedding = layers.ReversibleEmbedding(models.WORDS, models.FEATURES)
    x = embedding(ids)
    for block in blocks:
        x = block()(x)
    return keras.Model(ids, embedding(x, reverse=True), name="around")


def _divided(*blocks: type) -> tuple[int, dict[str, str]]:
    """How many layers are sharded, and what is said of each, when it trains right."""
    model = require_same(
        lambda: _around(*blocks), models.text(), models.logits(), (1, 1, 2), optimizer=sgd
    )
    return divided_layers(model), hvd.parallel.plan_of(model).layers


@long
def check_blocks_of_ones_own() -> None:
    count, _ = _divided(Block, Block)
    # Of each block four of the attention, the dropout of scores, three dense layers; the embedding.
    assert count == 17, count


@long
def check_composites_that_can_not_be_divided() -> None:
    count, said = _divided(HeadsInTheShape, OutOfKeras, OtherInTraining)
    text = "\n".join(f"{name}: {how}" for name, how in said.items())
    for kind in ("OtherInTraining", "OutOfKeras"):
        assert f"({kind}): whole" in text, text
    assert count >= 1, text


@long
def check_what_is_learned_beside_a_shard() -> None:
    _, said = _divided(Learned)
    assert not any("later layer sums" in how for how in said.values()), said
