"""A small GPT that can be cut into stages: its head has weights of its own."""

from __future__ import annotations

from typing import Any

import keras
from checks.tensor_parallel.models import (
    FEATURES,
    LENGTH,
    VOCABULARY,
    DenseEmbedding,
    Positions,
    block,
)

import hvdkit.parallel as parallel


def gpt(divided: bool, sequence_parallel: bool = False) -> keras.Model:
    """From ids to logits; of divided layers or of Keras's."""
    on_parts = divided and sequence_parallel
    region: dict[str, Any] = {"sequence_parallel": sequence_parallel} if divided else {}
    embed = parallel.VocabularyParallelEmbedding if divided else DenseEmbedding
    head = parallel.ColumnParallelDense if divided else keras.layers.Dense
    ids = keras.Input((LENGTH,), dtype="int32")
    positions = Positions()(ids)
    # A layer in both, so that Keras puts those of both models in one order.
    positions = (parallel.ScatterSequence() if on_parts else keras.layers.Identity())(positions)
    x = keras.layers.Add()([embed(VOCABULARY, FEATURES, **region)(ids), positions])
    for _ in range(2):
        x = block(x, divided, sequence_parallel)
    layer = keras.layers.LayerNormalization()
    x = (parallel.SequenceParallel(layer) if on_parts else layer)(x)
    return keras.Model(ids, head(VOCABULARY, use_bias=False, **region)(x))
