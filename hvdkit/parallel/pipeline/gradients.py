"""Gradients, added up over micro-batches."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from hvdkit.exchange.allreduce_gradients import Gradient


def added(sums: Sequence[Gradient], gradients: Sequence[Gradient]) -> list[Gradient]:
    """The sums with one more micro-batch; None counts as 0, and what is sparse stays so."""
    return [_added(a, b) for a, b in zip(sums, gradients, strict=True)]


def _added(total: Gradient, gradient: Gradient) -> Gradient:
    if total is None or gradient is None:
        return gradient if total is None else total
    if isinstance(total, tf.IndexedSlices) and isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(
            tf.concat([total.values, gradient.values], 0),
            tf.concat([total.indices, gradient.indices], 0),
            gradient.dense_shape,
        )
    return tf.convert_to_tensor(total) + tf.convert_to_tensor(gradient)
