"""A small GPT, of divided layers or of Keras's."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

import hvdkit.parallel as parallel

VOCABULARY, LENGTH, FEATURES = 16, 8, 12


@keras.saving.register_keras_serializable(package="checks")
class Positions(keras.layers.Layer):
    """A vector for each position, [1, sequence, features]."""

    def build(self, shape: Any) -> None:
        self.table = self.add_weight(
            name="table", shape=(1, LENGTH, FEATURES), initializer="random_normal"
        )

    def call(self, ids: Any) -> Any:
        return keras.ops.cast(self.table, self.compute_dtype)

    def compute_output_shape(self, shape: Any) -> tuple[int, ...]:
        return (1, LENGTH, FEATURES)


class DenseEmbedding(keras.layers.ReversibleEmbedding):
    """Keras's, with dense gradients.

    Where ids occur twice, its optimizers square and clip the rows of a sparse gradient one by one.
    """

    def call(self, inputs: Any, reverse: bool = False) -> Any:
        if reverse:
            return super().call(inputs, reverse=True)
        hits = keras.ops.one_hot(inputs, self.input_dim, dtype=self.compute_dtype)
        return keras.ops.matmul(hits, keras.ops.cast(self.embeddings, self.compute_dtype))


def block(x: Any, divided: bool, sequence_parallel: bool = False, dropout: float = 0.0) -> Any:
    """A Transformer block."""
    on_parts = divided and sequence_parallel
    region = {"sequence_parallel": sequence_parallel} if divided else {}

    def normalized(x: Any) -> Any:
        layer = keras.layers.LayerNormalization()
        return (parallel.SequenceParallel(layer) if on_parts else layer)(x)

    def dropped(x: Any) -> Any:
        return (parallel.ShardedDropout if on_parts else keras.layers.Dropout)(dropout)(x)

    attend = parallel.HeadParallelAttention if divided else keras.layers.MultiHeadAttention
    column = parallel.ColumnParallelDense if divided else keras.layers.Dense
    row = parallel.RowParallelDense if divided else keras.layers.Dense
    # Without a bias of the keys, whose gradient is zero but for rounding, which Adam enlarges.
    h = attend(4, 3, dropout=dropout, use_bias=False, **region)(
        *[normalized(x)] * 2, use_causal_mask=True
    )
    x = keras.layers.Add()([x, dropped(h)])
    h = column(4 * FEATURES, activation="gelu", **region)(normalized(x))
    h = row(FEATURES, **region)(h)
    return keras.layers.Add()([x, dropped(h)])


def gpt(
    divided: bool,
    sequence_parallel: bool = False,
    tied: bool = True,
    dropout: float = 0.0,
    blocks: int = 1,
) -> keras.Model:
    """From ids to logits, which are divided along the vocabulary where the model is divided."""
    on_parts = divided and sequence_parallel
    region = {"sequence_parallel": sequence_parallel} if divided else {}
    ids = keras.Input((LENGTH,), dtype="int32")
    kind = parallel.VocabularyParallelEmbedding if divided else DenseEmbedding
    embedding = kind(VOCABULARY, FEATURES, tie_weights=tied, **region)
    positions = Positions()(ids)
    # A layer in both, so that Keras puts those of both models in one order.
    positions = (parallel.ScatterSequence() if on_parts else keras.layers.Identity())(positions)
    x = keras.layers.Add()([embedding(ids), positions])
    for _ in range(blocks):
        x = block(x, divided, sequence_parallel, dropout)
    layer = keras.layers.LayerNormalization()
    x = (parallel.SequenceParallel(layer) if on_parts else layer)(x)
    return keras.Model(ids, embedding(x, reverse=True))


def loss(divided: bool, **options: Any) -> keras.losses.Loss:
    """The loss of a model's logits."""
    if divided:
        return parallel.VocabularyParallelCrossEntropy(**options)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **options)


def text(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Ids, and the ids that come next: sequences that count up in steps."""
    rng = np.random.default_rng(seed)
    start, step = rng.integers(0, VOCABULARY, (rows, 1)), rng.integers(1, 4, (rows, 1))
    ids = (start + step * np.arange(LENGTH + 1)) % VOCABULARY
    return ids[:, :-1].astype("int32"), ids[:, 1:].astype("int32")
