"""One byte for each number, with a scale for each block of them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from hvdkit.engine import ProcessSet, topology
from hvdkit.exchange.aggregators import Gathered, OfRanks
from hvdkit.exchange.base import Aggregated
from hvdkit.exchange.compression.shapes import flat_of, poisoned, shape_of
from hvdkit.exchange.memory import StepCount
from hvdkit.exchange.tracked import Tracked
from hvdkit.exchange.traffic import Traffic, elements

_LARGEST = 127
_SCALE_BYTES = 4

Rounding = Callable[[tf.Tensor], tf.Tensor]


@keras.saving.register_keras_serializable("hvdkit")
class Int8(OfRanks):
    """An aggregator: each number as one of 255 multiples of its block's scale.

    A block is `block` numbers in a row; its largest is 127 times its scale. With `"stochastic"`
    rounding a number goes up as often as it is near the next multiple, so that the mean of what is
    sent is the number itself, and no memory is needed: Alistarh et al., 2017,
    https://arxiv.org/abs/1610.02132. With `"nearest"` it is off by half a scale at most, and
    biased: use that inside `ErrorFeedback`, which goes with both.

    State: with `"stochastic"` the number of steps, alike on all ranks. The random numbers come from
    it, the seed, the rank and the variable's shape, so a training that goes on draws those that it
    would have drawn. Bytes: n, and 4 for each block, which are gathered: each rank receives those
    of all others, so from 8 ranks on an all-reduce of float32 is smaller.

    Args:
        block: numbers with one scale.
        rounding: "stochastic" or "nearest".
        seed: of the random numbers.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> exchange = hvd.exchange.AllReduce(hvd.exchange.Int8(block=256))
    """

    def __init__(self, block: int = 256, rounding: str = "stochastic", seed: int = 0) -> None:
        if block < 1:
            raise ValueError(f"block is at least 1, not {block}.")
        if rounding not in ("stochastic", "nearest"):
            raise ValueError(f'rounding is "stochastic" or "nearest", not {rounding!r}.')
        self.block = block
        self.rounding = rounding
        self.seed = seed
        self._steps_made = StepCount("int8")

    def build(self, variables: Sequence[Any], ranks: ProcessSet) -> Sequence[Tracked]:
        """See `Aggregator.build`."""
        super().build(variables, ranks)
        return self._steps_made.start(variables, ranks) if self.rounding == "stochastic" else ()

    def aggregate(
        self, bucket: Sequence[tf.Tensor], variables: Sequence[Any], name: str
    ) -> Aggregated:
        """See `Aggregator.aggregate`."""
        if self.rounding == "nearest":
            return self._gathered(tf.round).aggregate(bucket, variables, name)
        step = self._steps_made.now(variables)
        gathered = self._gathered(self._stochastic(step, variables))
        aggregated = gathered.aggregate(bucket, variables, name)
        return Aggregated(aggregated.mean, aggregated.share, [self._steps_made.ticked(variables)])

    def traffic(self, tensors: Sequence[Any], step: int | None = None) -> Traffic:
        """See `Counted.traffic`."""
        return self._gathered(tf.round).traffic(tensors, step)

    def get_config(self) -> dict[str, Any]:
        """The arguments, as plain data."""
        return {"block": self.block, "rounding": self.rounding, "seed": self.seed}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Int8:
        """An aggregator with the arguments of `get_config`."""
        return cls(**config)

    def _gathered(self, rounded: Rounding) -> Gathered:
        gathered = Gathered(_Blocks(self.block, rounded))
        gathered.build((), self._ranks)
        return gathered

    def _stochastic(self, step: tf.Tensor, variables: Sequence[Any]) -> Rounding:
        """Rounds the tensors of some variables, in their order, at random.

        Variables of one shape get the same random numbers, so that what two stages of a pipeline
        have in common stays the same.
        """
        place = tf.cast(topology.place_when_run(self._ranks), tf.int64)
        shapes = iter([tuple(map(int, variable.shape)) for variable in variables])

        def rounded(scaled: tf.Tensor) -> tf.Tensor:
            number = zlib.crc32(f"{self.seed}/{next(shapes)}".encode())
            seed = tf.stack([number + place * 2**32, step])
            return tf.floor(scaled + tf.random.stateless_uniform(tf.shape(scaled), seed))

        return rounded


class _Blocks:
    """The codec: int8 numbers [n] and float32 scales [blocks]."""

    additive = False

    def __init__(self, block: int, rounded: Rounding) -> None:
        self._block = block
        self._rounded = rounded

    def encode(self, tensor: tf.Tensor) -> tuple[tuple[tf.Tensor, tf.Tensor], Any]:
        flat = tf.cast(flat_of(tensor), tf.float32)
        count = tf.size(flat)
        blocks = self._in_blocks(flat, count)
        largest = tf.reduce_max(tf.abs(blocks), axis=1, keepdims=True)
        scales = poisoned(largest / _LARGEST, blocks)
        scaled = self._rounded(tf.math.divide_no_nan(blocks, scales))
        numbers = tf.cast(tf.clip_by_value(scaled, -_LARGEST, _LARGEST), tf.int8)
        payload = tf.reshape(numbers, [-1])[:count], tf.reshape(scales, [-1])
        return payload, (tensor.dtype, shape_of(tensor))

    def decode(self, payload: tuple[tf.Tensor, tf.Tensor], context: Any) -> tf.Tensor:
        numbers, scales = payload
        dtype, shape = context
        count = tf.reduce_prod(shape)
        blocks = self._in_blocks(tf.cast(numbers, tf.float32), count) * scales[:, tf.newaxis]
        return tf.cast(tf.reshape(tf.reshape(blocks, [-1])[:count], shape), dtype)

    def payload_bytes(self, tensor: Any) -> int:
        count = elements(tensor)
        return count + _SCALE_BYTES * -(-count // self._block)

    def _in_blocks(self, flat: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        return tf.reshape(tf.pad(flat, [[0, -count % self._block]]), [-1, self._block])
