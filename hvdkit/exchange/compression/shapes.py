"""Tensors as plain rows of numbers, and back."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from hvdkit.exchange.memory import precise


def flat_of(tensor: tf.Tensor) -> tf.Tensor:
    """All numbers of a tensor, [n], in float32 at least."""
    return tf.reshape(tf.cast(tensor, precise(tensor.dtype)), [-1])


def shape_of(tensor: tf.Tensor) -> Any:
    """A tensor's shape, a tensor itself; in a graph of unknown shapes that of when it runs."""
    known = tensor.shape.is_fully_defined()
    return tf.constant(tensor.shape.as_list(), tf.int32) if known else tf.shape(tensor)


def poisoned(values: tf.Tensor, whole: tf.Tensor) -> tf.Tensor:
    """Some values of a tensor, and NaN for each if anything in the whole is not finite.

    What is sent of a tensor has to tell all ranks that some of it was not finite.
    """
    finite = tf.reduce_all(tf.math.is_finite(whole))
    return tf.where(finite, values, tf.cast(float("nan"), values.dtype))
