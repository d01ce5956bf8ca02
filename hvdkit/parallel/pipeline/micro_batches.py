"""A batch, divided into micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf


class MicroBatches:
    """The micro-batches of a batch; their sizes differ by one row at most.

    Args:
        inputs: the model's inputs, flat, in its order; a row of each is an example.
        targets: y, in the structure of the model's outputs; None where there is none.
        sample_weight: weights of the rows, as in `fit`; None where there are none.
        count: number of micro-batches, as many as there are rows at most.

    Attributes:
        count: number of micro-batches.
        rows: number of rows of the batch.
    """

    def __init__(self, inputs: Sequence[Any], targets: Any, sample_weight: Any, count: int) -> None:
        self.count = count
        self.rows = rows_of(inputs)
        self._inputs, self._targets, self._sample_weight = inputs, targets, sample_weight
        self._ends = [i * self.rows // count for i in range(count + 1)]

    def input(self, number: int, micro_batch: int) -> Any:
        """One of the model's inputs, of a micro-batch."""
        return self._part(self._inputs[number], micro_batch)

    def targets(self, micro_batch: int) -> tuple[Any, Any]:
        """The targets and the sample weights of a micro-batch."""
        both = (self._targets, self._sample_weight)
        targets, weights = keras.tree.map_structure(lambda t: self._part(t, micro_batch), both)
        return targets, weights

    def fraction(self, micro_batch: int) -> float:
        """The part of the batch's rows that are in a micro-batch."""
        return (self._ends[micro_batch + 1] - self._ends[micro_batch]) / self.rows

    def weight_fraction(self, micro_batch: int) -> float:
        """The part of the batch's sample weights that are in a micro-batch."""
        if self._sample_weight is None:
            return self.fraction(micro_batch)
        whole = float(tf.reduce_sum(self._sample_weight))
        part = float(tf.reduce_sum(self._part(self._sample_weight, micro_batch)))
        return part / whole if whole else 0.0

    def _part(self, tensor: Any, micro_batch: int) -> Any:
        if tensor is None:
            return None
        return tensor[self._ends[micro_batch] : self._ends[micro_batch + 1]]


def rows_of(inputs: Sequence[Any]) -> int:
    """Number of rows of a batch."""
    return int(inputs[0].shape[0])
