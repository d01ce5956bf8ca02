"""One bit for each number: its sign, with one scale for a tensor."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from hvdkit.exchange.compression.shapes import flat_of, shape_of
from hvdkit.exchange.traffic import elements

_SCALE_BYTES = 4


@keras.saving.register_keras_serializable("hvdkit")
class OneBit:
    """A codec: the sign of each number, packed eight to a byte, and the mean of their sizes.

    It is biased: alone it does not come to the optimum, so use it inside `ErrorFeedback`.
    Seide et al., 2014, https://doi.org/10.21437/Interspeech.2014-274; with one scale for a tensor,
    Karimireddy et al., 2019, https://arxiv.org/abs/1901.09847.

    State: none. Bytes: n / 8, rounded up, and 4 for each tensor of n numbers, which are gathered:
    each rank receives those of all others, (ranks - 1) times as many.

    Example:
        >>> exchange = hvd.exchange.AllReduce(hvd.exchange.ErrorFeedback(hvd.exchange.OneBit()))
    """

    additive = False

    def encode(self, tensor: tf.Tensor) -> tuple[tuple[tf.Tensor, tf.Tensor], Any]:
        """Bytes [n / 8] and the scale []; see `Codec.encode`."""
        flat = flat_of(tensor)
        count = tf.size(flat)
        # NaN and Inf anywhere make the scale NaN or Inf.
        scale = tf.math.divide_no_nan(tf.reduce_sum(tf.abs(flat)), tf.cast(count, flat.dtype))
        padded = tf.pad(flat, [[0, -count % 8]])
        bits = tf.raw_ops.CompareAndBitpack(input=padded, threshold=tf.zeros([], flat.dtype))
        return (bits, tf.cast(scale, tf.float32)), (tensor.dtype, shape_of(tensor))

    def decode(self, payload: tuple[tf.Tensor, tf.Tensor], context: Any) -> tf.Tensor:
        """The scale where a number was above 0, and its negative elsewhere; see `Codec.decode`."""
        bits, scale = payload
        dtype, shape = context
        shifted = tf.bitwise.right_shift(bits[:, tf.newaxis], tf.range(7, -1, -1, tf.uint8))
        above = tf.reshape(tf.bitwise.bitwise_and(shifted, tf.ones([], tf.uint8)), [-1])
        signed = tf.where(tf.cast(above[: tf.reduce_prod(shape)], tf.bool), scale, -scale)
        return tf.cast(tf.reshape(signed, shape), dtype)

    def payload_bytes(self, tensor: Any) -> int:
        """See `Sized.payload_bytes`."""
        return -(-elements(tensor) // 8) + _SCALE_BYTES

    def get_config(self) -> dict[str, Any]:
        """The arguments, as plain data: none."""
        return {}
