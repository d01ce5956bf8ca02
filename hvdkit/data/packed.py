"""Elements of a dataset as vectors of text, so that those of different shapes can be batched."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def pack(element: Any) -> tf.Tensor:
    """A vector of serialized tensors: those of an element, in the order of `tf.nest`."""
    leaves = tf.nest.flatten(element, expand_composites=True)
    return tf.stack([tf.io.serialize_tensor(leaf) for leaf in leaves if leaf is not None])


def unpacked(values: tf.Tensor, spec: Any) -> Any:
    """An element again.

    Args:
        values: what `pack` made of it.
        spec: the specification of the elements before they were packed.
    """
    leaves = tf.nest.flatten(spec, expand_composites=True)
    parsed = [
        tf.ensure_shape(tf.io.parse_tensor(values[i], leaf.dtype), leaf.shape)
        for i, leaf in enumerate(leaves)
    ]
    return tf.nest.pack_sequence_as(spec, parsed, expand_composites=True)
