"""Types that Horovod can't move travel as their bits, in a type of the same size that it can."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

MOVABLE = frozenset(
    {
        tf.uint8,
        tf.int8,
        tf.uint16,
        tf.int16,
        tf.int32,
        tf.int64,
        tf.float16,
        tf.float32,
        tf.float64,
        tf.bool,
    }
)
_CARRIERS = {1: tf.uint8, 2: tf.uint16, 4: tf.int32, 8: tf.int64, 16: tf.int64}


def moved(
    tensor: tf.Tensor,
    move: Callable[[tf.Tensor], tuple[tf.Tensor, ...]],
    gradient: Callable[[tf.Tensor], tf.Tensor],
) -> tuple[tf.Tensor, ...]:
    """Apply a collective that moves values and does not compute with them.

    Args:
        tensor: the values.
        move: the collective on a type that Horovod moves; the first result holds the values.
        gradient: the collective's gradient, from that of its first result. Horovod's own, which
            eagerly serve the types that it moves, can't see through bits and have no names that
            are the same on all ranks.

    Raises:
        TypeError: the tensor holds no numbers.
    """
    dtype = tensor.dtype
    movable = dtype in MOVABLE
    if not (movable or dtype.is_floating or dtype.is_integer or dtype.is_complex):
        raise TypeError(
            f"a tensor of type {dtype.name} can't be sent to other ranks; "
            "see hvd.broadcast_object and hvd.allgather_object."
        )
    if movable and tf.executing_eagerly():
        return move(tensor)

    @tf.custom_gradient
    def sent(values: tf.Tensor) -> tuple[tuple[tf.Tensor, ...], Callable[..., tf.Tensor]]:
        result, *others = move(values if movable else tf.bitcast(values, _CARRIERS[dtype.size]))
        result = result if movable else tf.bitcast(result, dtype)
        return (result, *others), lambda upstream, *_: gradient(upstream)

    return tuple(sent(tensor))
