"""Clipping by norms of whole gradients, where each rank holds a part of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from hvdkit.engine import Sum, ops
from hvdkit.exchange.gradient import scaled
from hvdkit.mesh.layout import is_sharded, layout_of
from hvdkit.mesh.mesh import Mesh


def clip_by_norm(gradients: Sequence[Any], variables: Sequence[Any], clipnorm: float) -> list[Any]:
    """Scale each gradient so that the norm of the whole variable's is at most `clipnorm`.

    Args:
        gradients: this rank's parts; a tensor, `tf.IndexedSlices`, or None for each variable.
        variables: what they belong to, in the same order.
        clipnorm: the largest norm.
    """
    norms = (tf.sqrt(square) for square in _squared_norms(gradients, variables))
    return [
        g if g is None else scaled(g, clipnorm / tf.maximum(next(norms), clipnorm))
        for g in gradients
    ]


def clip_by_global_norm(
    gradients: Sequence[Any], variables: Sequence[Any], clipnorm: float, mesh: Mesh
) -> list[Any]:
    """Scale all gradients so that the norm of the whole model's is at most `clipnorm`.

    Args:
        gradients: see `clip_by_norm`.
        variables: see `clip_by_norm`.
        clipnorm: the largest norm.
        mesh: its stages hold the other variables of the model.
    """
    squares = _squared_norms(gradients, variables)
    total = tf.add_n(squares) if squares else tf.constant(0.0)
    if mesh.pipeline > 1:
        total = ops.allreduce(total, Sum, name="hvdkit_norm", process_set=mesh.pipeline_set)
    norm = tf.sqrt(total)
    # As Keras: NaN where the norm is not finite.
    scale = clipnorm * tf.minimum(1.0 / norm, 1.0 / clipnorm) + (norm - norm)
    return [g if g is None else scaled(g, scale) for g in gradients]


def _squared_norms(gradients: Sequence[Any], variables: Sequence[Any]) -> list[tf.Tensor]:
    """The squared norm of each variable's whole gradient, but for those that are None."""
    given = [(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None]
    squares = [keras.ops.cast(keras.ops.sum(keras.ops.square(g)), "float32") for g, _ in given]
    split = [i for i, (_, v) in enumerate(given) if is_sharded(v)]
    if split:
        layout = layout_of(given[split[0]][1])
        assert layout is not None
        parts = tf.stack([squares[i] for i in split])
        wholes = ops.allreduce(parts, Sum, name="hvdkit_norms", process_set=layout.mesh.tensor_set)
        for i, whole in zip(split, tf.unstack(wholes), strict=True):
            squares[i] = whole
    return squares
