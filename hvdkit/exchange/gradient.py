"""Gradients of one variable: dense, sparse or none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import keras
import tensorflow as tf

# A tf.Tensor, tf.IndexedSlices, or None (TensorFlow has no stubs to check it by).
Gradient: TypeAlias = Any


def scaled(gradient: tf.Tensor | tf.IndexedSlices, factor: Any) -> tf.Tensor | tf.IndexedSlices:
    """A gradient, dense or sparse, times a number."""
    if isinstance(gradient, tf.IndexedSlices):
        values = gradient.values * tf.cast(factor, gradient.values.dtype)
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return gradient * tf.cast(factor, gradient.dtype)


def squared(gradient: tf.Tensor | tf.IndexedSlices) -> tf.Tensor:
    """The squared norm of a gradient, dense or sparse (float32 scalar)."""
    return keras.ops.cast(keras.ops.sum(keras.ops.square(gradient)), "float32")


def total(gradients: Sequence[Gradient]) -> Gradient:
    """The sum of gradients; None counts as 0, and what is sparse stays so."""
    there = [g for g in gradients if g is not None]
    if len(there) < 2:
        return there[0] if there else None
    if all(isinstance(g, tf.IndexedSlices) for g in there):
        return tf.IndexedSlices(
            tf.concat([g.values for g in there], axis=0),
            tf.concat([g.indices for g in there], axis=0),
            there[0].dense_shape,
        )
    return tf.add_n([tf.convert_to_tensor(g) for g in there])


def added(sums: Sequence[Gradient], gradients: Sequence[Gradient]) -> list[Gradient]:
    """The sums of several gradients, with one more micro-batch."""
    return [total(pair) for pair in zip(sums, gradients, strict=True)]


def bytes_of(gradient: tf.Tensor, variable: Any) -> int:
    """The bytes of a dense gradient, whose shape may be known from its variable only."""
    elements = gradient.shape.num_elements()
    if elements is None:
        elements = tf.TensorShape(variable.shape).num_elements() or 0
    return int(elements * gradient.dtype.size)
