"""One bit for each number: its sign, with one scale for a tensor."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from hvdkit.exchange.compression.shapes import flat_of, shape_of
from hvdkit.exchange.traffic import elements

_SCALE_BYTES = 4
_WORTH = [1, 2, 4, 8, 16, 32, 64, 128]  # of the bits of a byte


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
        eights = tf.reshape(tf.pad(flat > 0, [[0, -count % 8]]), [-1, 8])
        bits = tf.reduce_sum(tf.where(eights, _WORTH, 0), axis=1)
        return (tf.cast(bits, tf.uint8), tf.cast(scale, tf.float32)), (
            tensor.dtype,
            shape_of(tensor),
        )

    def decode(self, payload: tuple[tf.Tensor, tf.Tensor], context: Any) -> tf.Tensor:
        """The scale where a number was above 0, and its negative elsewhere; see `Codec.decode`."""
        bits, scale = payload
        dtype, shape = context
        eights = tf.bitwise.bitwise_and(bits[:, tf.newaxis], tf.constant(_WORTH, tf.uint8)) > 0
        above = tf.reshape(eights, [-1])[: tf.reduce_prod(shape)]
        signed = tf.where(above, scale, -scale)
        return tf.cast(tf.reshape(signed, shape), dtype)

    def payload_bytes(self, tensor: Any) -> int:
        """See `Sized.payload_bytes`."""
        return -(-elements(tensor) // 8) + _SCALE_BYTES

    def get_config(self) -> dict[str, Any]:
        """The arguments, as plain data: none."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> OneBit:
        """A codec with the arguments of `get_config`."""
        return cls(**config)
