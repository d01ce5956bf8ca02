"""Dividing the rows of a batch into micro-batches, and putting what comes out together again.

Layers that are split over devices and pipelines over ranks both divide their batches so.

The sizes differ by one row where the number of micro-batches does not divide that of the rows, as
in the last batch of an epoch. If there are fewer rows than micro-batches, those that would be empty
get a copy of a row, so that no layer averages over nothing; it is dropped from their outputs, and
has no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import tensorflow as tf

from hvdkit.keras_internals import get_keras_mask, set_keras_mask


@dataclass(frozen=True)
class MicroBatch:
    """Some rows of a batch; numbers are Python's where the batch size is known.

    Attributes:
        start: its first row.
        size: its number of rows; None for all rows of the batch.
        filled: the same, but at least 1 in a batch that is not empty.
        share: the fraction of the batch's rows that are in it.
    """

    start: Any = 0
    size: Any = None
    filled: Any = None
    share: Any = 1.0

    @property
    def has_all(self) -> bool:
        """Whether it is the only one of its batch."""
        return self.size is None

    def of(self, tensor: Any) -> Any:
        """These rows of a tensor, and of its mask; a copied row if there are none."""
        if self.has_all or tensor is None:
            return tensor
        return _with_mask(tensor, lambda t: t[self.start : self.start + self.filled])

    def without_copy(self, tensor: Any) -> Any:
        """What belongs to these rows of something computed from `of`."""
        if self.has_all or self.size is self.filled or tensor is None:
            return tensor
        return _with_mask(tensor, lambda t: t[: self.size])

    def of_gradient(self, gradient: tf.Tensor) -> tf.Tensor:
        """These rows of an output's gradient; zeros for a copied row."""
        if self.has_all:
            return gradient
        rows = gradient[self.start : self.start + self.size]
        if self.size is self.filled:
            return rows
        more = [[0, self.filled - self.size], *[[0, 0]] * (len(gradient.shape) - 1)]
        return tf.pad(rows, more)


def micro_batches_of(tensors: Sequence[Any], count: int) -> list[MicroBatch]:
    """Divide the rows of a batch into `count` micro-batches, or as many as there are rows.

    Raises:
        ValueError: a tensor has no rows, or they have different numbers of them.
    """
    if count == 1:
        return [MicroBatch()]
    given = [t for t in tensors if t is not None]
    sizes = {t.shape[0] if t.shape.rank else 0 for t in given} - {None}
    if len(sizes) > 1 or 0 in [t.shape.rank for t in given]:
        shapes = ", ".join(str(tuple(t.shape)) for t in given)
        raise ValueError(
            f"inputs of the shapes {shapes} can't be divided into {count} micro-batches: the first "
            "dimension of each has to be the rows of the batch."
        )
    if sizes:
        return _known(sizes.pop(), count)
    return _unknown(tf.shape(given[0])[0], count)


def joined(outputs: Sequence[Any], micro_batches: Sequence[MicroBatch]) -> Any:
    """Put an output of all micro-batches together, with its masks.

    Raises:
        ValueError: an output has no rows.
    """
    if micro_batches[0].has_all or outputs[0] is None:
        return outputs[0]
    if outputs[0].shape.rank == 0:
        raise ValueError(
            f"an output of the split layers is one number, not one a row, so {len(outputs)} "
            "micro-batches can't be put together. Use micro_batches=1."
        )
    own = [one.without_copy(t) for one, t in zip(micro_batches, outputs, strict=True)]
    batch = tf.concat(own, axis=0)
    masks = [get_keras_mask(tensor) for tensor in own]
    if all(mask is not None for mask in masks):
        set_keras_mask(batch, tf.concat(masks, axis=0))
    return batch


def _known(size: int, count: int) -> list[MicroBatch]:
    count = min(size, count)
    if count <= 1:
        return [MicroBatch()]
    ends = [size * i // count for i in range(count + 1)]
    return [MicroBatch(start, n := stop - start, n, n / size) for start, stop in pairwise(ends)]


def _unknown(size: tf.Tensor, count: int) -> list[MicroBatch]:
    found = []
    for i in range(count):
        start, stop = size * i // count, size * (i + 1) // count
        own = stop - start
        share = tf.math.divide_no_nan(tf.cast(own, tf.float32), tf.cast(size, tf.float32))
        first = tf.maximum(tf.minimum(start, size - 1), 0)
        found.append(MicroBatch(first, own, tf.maximum(own, 1), share))
    return found


def _with_mask(tensor: Any, function: Any) -> Any:
    result, mask = function(tensor), get_keras_mask(tensor)
    if mask is not None:
        set_keras_mask(result, function(mask))
    return result
