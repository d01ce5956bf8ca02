"""The order in which a dataset is read, the same on every rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from hvdkit.data.python_stream import from_python
from hvdkit.data.rows import batch_rows, take_rows


def shuffled(blocks: tf.data.Dataset, seed: int, next_epoch: Callable[[], int]) -> tf.data.Dataset:
    """Blocks of rows, each in an order that follows from seed, epoch and block.

    `tf.data.Dataset.shuffle` would mix in TensorFlow's global seed, which may differ by rank.

    Args:
        blocks: batches of as many rows as are to be mixed.
        seed: the seed.
        next_epoch: called at the start of each pass; says which epoch it is.
    """
    numbered = blocks.enumerate()

    def epochs() -> Iterator[int]:
        yield next_epoch()

    def in_order_of(epoch: tf.Tensor) -> tf.data.Dataset:
        def shuffle(block: tf.Tensor, data: Any) -> Any:
            pair = tf.stack([seed * 1_000_003 + epoch, block])
            numbers = tf.range(batch_rows(data))
            order = tf.random.experimental.stateless_shuffle(numbers, pair)
            return take_rows(data, order)

        return numbered.map(shuffle)

    return from_python(epochs, tf.TensorSpec([], tf.int64)).flat_map(in_order_of)
