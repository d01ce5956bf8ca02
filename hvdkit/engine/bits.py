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
        gradient: the collective's gradient, from that of its first result; used where Horovod's
            own, which can't see through bits, is not.

    Raises:
        TypeError: the tensor holds no numbers.
    """
    dtype = tensor.dtype
    if dtype in MOVABLE:
        return move(tensor)
    if not (dtype.is_floating or dtype.is_integer or dtype.is_complex):
        raise TypeError(
            f"a tensor of type {dtype.name} can't be sent to other ranks; "
            "see hvd.broadcast_object and hvd.allgather_object."
        )
    carrier = _CARRIERS[dtype.size]

    @tf.custom_gradient
    def through_bits(values: tf.Tensor) -> tuple[tuple[tf.Tensor, ...], Callable[..., tf.Tensor]]:
        bits, *others = move(tf.bitcast(values, carrier))
        return (tf.bitcast(bits, dtype), *others), lambda upstream, *_: gradient(upstream)

    return tuple(through_bits(tensor))
