"""Numbers that graphs make while they run: times, and bytes of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from hvdkit.watch.activity import in_no_order
from hvdkit.watch.table import tensors_of


def now() -> tf.Tensor:
    """Seconds since 1970, when the graph comes there (float64 scalar)."""
    time = tf.timestamp()
    in_no_order(time.op)
    return time


def number(value: Any) -> Callable[[], tf.Tensor]:
    """What makes a number in a graph (float64 scalar)."""
    return lambda: tf.cast(value, tf.float64)


def bytes_known(tensors: Sequence[Any]) -> float | None:
    """Bytes of tensors; None where the shape of one is known only when it is there."""
    each = tensors_of(tensors)
    if not all(tensor.shape.is_fully_defined() for tensor in each):
        return None
    return float(sum(tensor.shape.num_elements() * tensor.dtype.size for tensor in each))


def bytes_of(tensors: Sequence[Any]) -> tf.Tensor:
    """Bytes of tensors, of which the graph may not know the shapes (float64 scalar)."""
    sizes = [
        tf.cast(tf.size(tensor, tf.int64) * tensor.dtype.size, tf.float64)
        for tensor in tensors_of(tensors)
    ]
    return tf.add_n(sizes) if sizes else tf.constant(0.0, tf.float64)
