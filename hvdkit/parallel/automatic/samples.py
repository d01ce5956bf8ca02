"""A random batch of a few rows on which a model is tried."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.graph.layer_sequence import LayerSequence

_ROWS, _LENGTH = 2, 6


def sample_of(
    sequence: LayerSequence, degree: int, length: int | None = None
) -> dict[int, tf.Tensor]:
    """A random value for each input of a model, the same on all ranks.

    Numbers are drawn as floats are; whole numbers are those that an embedding can have which takes
    them directly, otherwise 0 and 1; text is "a b".

    Args:
        sequence: the model's.
        degree: the tensor degree: sizes that are not known are multiples of it.
        length: these sizes; None for a few.
    """
    generator = np.random.default_rng(17)
    ids = _ids_taken(sequence)
    open_size = length or -(-_LENGTH // degree) * degree
    return {
        id(tensor): _drawn(tensor, generator, open_size, ids.get(id(tensor), 2))
        for tensor in sequence.inputs
    }


def _drawn(tensor: Any, generator: np.random.Generator, open_size: int, ids: int) -> tf.Tensor:
    shape = [_ROWS, *(size or open_size for size in tensor.shape[1:])]
    if tensor.shape and tensor.shape[0] is not None:
        shape[0] = tensor.shape[0]
    dtype = tf.as_dtype(tensor.dtype)
    if dtype == tf.string:
        return tf.fill(shape, "a b")
    if dtype.is_bool:
        return tf.constant(_with_true_first(generator.random(shape) < 0.8))
    if dtype.is_integer:
        drawn = generator.integers(0, ids, shape)
        return tf.constant(_with_true_first(drawn) if ids == 2 else drawn, dtype)
    return tf.cast(generator.normal(size=shape), dtype)


def _with_true_first(drawn: np.ndarray) -> np.ndarray:
    """A mask keeps a position in each row."""
    if drawn.ndim > 1:
        drawn[:, 0] = 1
    return drawn


def _ids_taken(sequence: LayerSequence) -> dict[int, int]:
    """How many ids the embeddings have that take an input, also inside of the layer it goes to."""
    taken: dict[int, int] = {}
    for step in sequence.steps:
        for tensor in step.input_tensors:
            sizes = _vocabularies(step.operation)
            if sizes and tf.as_dtype(tensor.dtype).is_integer:
                taken[id(tensor)] = min([*sizes, taken.get(id(tensor), sizes[0])])
    return taken


def _vocabularies(operation: Any) -> Sequence[int]:
    if not isinstance(operation, keras.layers.Layer):
        return []
    layers = operation._flatten_layers()
    return [layer.input_dim for layer in layers if isinstance(layer, keras.layers.Embedding)]
