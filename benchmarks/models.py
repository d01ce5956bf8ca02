"""The two models that step times are measured on, and their data."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

SEQUENCE, VOCABULARY, WIDTH, BLOCKS, HEADS = 128, 2048, 256, 4, 4


@keras.saving.register_keras_serializable(package="benchmarks")
class Block(keras.layers.Layer):
    """A decoder block: causal attention and an MLP, each with a residual and layer norm."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.norm1 = keras.layers.LayerNormalization()
        self.norm2 = keras.layers.LayerNormalization()
        self.attention = keras.layers.MultiHeadAttention(HEADS, WIDTH // HEADS)
        self.up = keras.layers.Dense(4 * WIDTH, activation="gelu")
        self.down = keras.layers.Dense(WIDTH)

    def call(self, x: Any) -> Any:
        """Apply the block to (batch, sequence, width)."""
        y = self.norm1(x)
        x = x + self.attention(y, y, use_causal_mask=True)
        return x + self.down(self.up(self.norm2(x)))


@keras.saving.register_keras_serializable(package="benchmarks")
class TokenAndPosition(keras.layers.Layer):
    """Embeddings of tokens and of their positions, added."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.token = keras.layers.Embedding(VOCABULARY, WIDTH)
        self.position = keras.layers.Embedding(SEQUENCE, WIDTH)

    def call(self, tokens: Any) -> Any:
        """Embed int tokens of shape (batch, sequence)."""
        return self.token(tokens) + self.position(keras.ops.arange(SEQUENCE))


def gpt() -> tuple[keras.Model, Any, Any, int]:
    """A GPT of 4.2 M parameters, its rows and targets, and its batch size (8 x 128 tokens)."""
    tokens = keras.Input((SEQUENCE,), dtype="int32")
    x = TokenAndPosition()(tokens)
    for _ in range(BLOCKS):
        x = Block()(x)
    x = keras.layers.LayerNormalization()(x)
    model = keras.Model(tokens, keras.layers.Dense(VOCABULARY)(x), name="gpt")
    data = np.random.default_rng(0).integers(0, VOCABULARY, (8, SEQUENCE + 1)).astype("int32")
    return model, data[:, :-1], data[:, 1:], 8


def mlp() -> tuple[keras.Model, Any, Any, int]:
    """An MLP of 10 M parameters, its rows and targets, and its batch size (64)."""
    layers = [keras.layers.Dense(width, activation="relu") for width in (2048, 2048, 1792)]
    model = keras.Sequential([keras.Input((1024,)), *layers, keras.layers.Dense(10)], name="mlp")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 1024)).astype("float32")
    return model, x, rng.integers(0, 10, 64).astype("int32"), 64


MODELS = {"gpt": gpt, "mlp": mlp}
