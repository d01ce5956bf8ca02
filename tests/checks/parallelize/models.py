"""Ordinary models of Keras's layers, as people write them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

layers = keras.layers
WORDS, LENGTH, FEATURES = 16, 8, 12
ROWS = 24


def numbers() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 6)).astype("float32")
    return x, np.stack([x.sum(1), x.prod(1)], 1).astype("float32")


def text() -> tuple[np.ndarray, np.ndarray]:
    """Ids, and the ids that come next."""
    rng = np.random.default_rng(0)
    start, step = rng.integers(0, WORDS, (ROWS, 1)), rng.integers(1, 4, (ROWS, 1))
    ids = (start + step * np.arange(LENGTH + 1)) % WORDS
    return ids[:, :-1].astype("int32"), ids[:, 1:].astype("int32")


def images() -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(ROWS, 8, 8, 3)).astype("float32")
    return x, x.mean(-1, keepdims=True)


def words_and_classes() -> tuple[np.ndarray, np.ndarray]:
    ids, _ = text()
    return ids, ids[:, 0] % 4


def mlp() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="gelu"),
            layers.Dropout(0.3),
            layers.Dense(6, kernel_regularizer="l2"),
            layers.LayerNormalization(),
            layers.Dense(8, activation="tanh", kernel_constraint="non_neg"),
            layers.Activation("silu"),
            layers.Dense(6, bias_regularizer="l1"),
            layers.Dense(2),
        ]
    )


def logits() -> Any:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class DenseEmbedding(layers.ReversibleEmbedding):
    """Keras's, with dense gradients, as `hvd.DistributedOptimizer` has them."""

    def call(self, inputs: Any, reverse: bool = False) -> Any:
        if reverse:
            return super().call(inputs, reverse=True)
        hits = keras.ops.one_hot(inputs, self.input_dim, dtype=self.compute_dtype)
        return keras.ops.matmul(hits, keras.ops.cast(self.embeddings, self.compute_dtype))


def gpt(blocks: int = 1, dropout: float = 0.1, tied: bool = True) -> keras.Model:
    """Of Keras's layers, with the embedding as its last layer too."""
    ids = keras.Input((LENGTH,), dtype="int32")
    embedding = layers.ReversibleEmbedding(WORDS, FEATURES)
    x = embedding(ids)
    for _ in range(blocks):
        h = layers.LayerNormalization()(x)
        attention = layers.MultiHeadAttention(4, 3, dropout=dropout, use_bias=False)
        x = x + attention(h, h, use_causal_mask=True)
        h = layers.LayerNormalization()(x)
        h = layers.Dense(4 * FEATURES, activation="gelu")(h)
        x = x + layers.Dropout(dropout)(layers.Dense(FEATURES)(h))
    x = layers.LayerNormalization()(x)
    return keras.Model(
        ids, embedding(x, reverse=True) if tied else layers.Dense(WORDS)(x), name="gpt"
    )


def unet() -> keras.Model:
    """With skips, and normalization by the rows of a batch."""
    image = keras.Input((8, 8, 3))
    first = layers.Conv2D(4, 3, padding="same", activation="relu")(image)
    down = layers.MaxPooling2D()(first)
    middle = layers.Conv2D(8, 3, padding="same", activation="relu")(down)
    middle = layers.Dense(16, activation="relu")(middle)
    middle = layers.Dense(8)(middle)
    up = layers.UpSampling2D()(middle)
    joined = layers.Concatenate()([first, up])
    return keras.Model(image, layers.Conv2D(1, 3, padding="same")(joined), name="unet")


def lstm() -> keras.Model:
    """Masks go through all layers."""
    words = keras.Input((LENGTH,), dtype="int32")
    hidden = layers.Embedding(WORDS, 6, mask_zero=True)(words)
    hidden = layers.Bidirectional(layers.LSTM(5, return_sequences=True))(hidden)
    hidden = layers.LSTM(4)(hidden)
    hidden = layers.Dense(8, activation="relu")(hidden)
    return keras.Model(words, layers.Dense(4)(layers.Dense(6)(hidden)), name="lstm")


def called_twice() -> keras.Model:
    """A model that is called twice, a layer that is, and one that is sharded in one place only."""
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(8, "relu"), layers.Dense(6)])
    shared = layers.Dense(8)
    last = layers.Dense(6)
    x = keras.Input((6,))
    h = inner(inner(x)) + x
    h = last(shared(h)) + last(keras.ops.relu(shared(2 * h)))
    once = layers.Dense(6, name="once")
    h = once(h) + layers.Dense(6)(once(h + 1))
    return keras.Model(x, layers.Dense(2)(h), name="called_twice")


def text_and_classes() -> tuple[np.ndarray, np.ndarray]:
    """Ids, and one of four classes of each."""
    ids, following = text()
    return ids, following % 4


def mlp_without_noise() -> keras.Model:
    return keras.Sequential(
        [keras.Input((6,)), layers.Dense(8, activation="gelu"), layers.Dense(2)]
    )


def many_sided() -> keras.Model:
    """Masks, several inputs and outputs, penalties, statistics, what is frozen, own seeds."""
    words = keras.Input((LENGTH,), dtype="int32", name="words")
    others = keras.Input((6,), name="others")
    x = layers.Embedding(WORDS, FEATURES, mask_zero=True, embeddings_regularizer="l2")(words)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(4, 3, dropout=0.1, seed=5)(x, x))
    h = layers.Dense(16, activation="gelu", kernel_regularizer="l2", bias_constraint="non_neg")(x)
    h = layers.Dense(FEATURES, bias_regularizer="l1")(layers.Dropout(0.2, seed=3)(h))
    pooled = layers.GlobalAveragePooling1D()(x + h)  # it takes notice of the mask
    joined = layers.Concatenate()([pooled, layers.BatchNormalization()(others)])
    hidden = layers.Dense(8, trainable=False, name="frozen")(joined)
    outputs = {
        "classes": layers.Dense(4, name="classes")(hidden),
        "value": layers.Dense(1, name="value")(layers.Dense(6, activation="tanh")(hidden)),
    }
    return keras.Model({"words": words, "others": others}, outputs, name="many_sided")


def many_sided_data() -> tuple[Any, ...]:
    """Inputs, targets, and a weight for each row and output."""
    ids, _ = text()
    x, y = numbers()
    rng = np.random.default_rng(1)
    weights = {name: rng.uniform(0.2, 2, ROWS).astype("float32") for name in ("classes", "value")}
    return {"words": ids, "others": x}, {"classes": ids[:, 0] % 4, "value": y[:, :1]}, weights


def many_sided_losses() -> dict[str, Any]:
    return {"classes": logits(), "value": "mse"}


def regularized() -> keras.Model:
    """What looks at all of a weight or an output stays whole, and counts once."""
    regularizers, constraints = keras.regularizers, keras.constraints
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="relu", activity_regularizer="l2", name="active"),
            layers.Dense(8, activation="gelu"),
            layers.Dropout(0.2, activity_regularizer="l2"),
            layers.Dense(6, kernel_regularizer=regularizers.OrthogonalRegularizer(0.1), name="o"),
            layers.Dense(8, kernel_constraint=constraints.MaxNorm(0.5), name="bounded"),
            layers.Dense(8, kernel_regularizer=regularizers.L1L2(0.01, 0.01), activation="tanh"),
            layers.ActivityRegularization(l2=0.1),
            layers.Dense(2),
        ]
    )


def seen_attention() -> keras.Model:
    """Scores of the attention are an output of the model."""
    words = keras.Input((LENGTH,), dtype="int32")
    x = layers.Embedding(WORDS, FEATURES)(words)
    x, scores = layers.MultiHeadAttention(4, 3)(x, x, return_attention_scores=True)
    return keras.Model(words, [layers.Dense(4)(x), scores], name="seen_attention")


class CountsCalls(layers.Layer):
    """It counts in a variable how often it was called."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x: Any) -> Any:
        self.calls.assign_add(1)
        return x


def counting(counts: bool = True) -> keras.Model:
    x = keras.Input((8,))
    h = layers.Dense(16, activation="relu", name="first")(x)
    h = CountsCalls()(h) if counts else h
    return keras.Model(
        x, layers.Dense(4, name="last")(layers.Dense(16, "relu")(h)), name="counting"
    )
