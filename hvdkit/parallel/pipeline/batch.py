"""A batch on the stages of a pipeline: the same rows on all of them, in micro-batches."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.descriptions import dtype_and_shape
from hvdkit.engine import ProcessSet, RankMismatchError, raise_everywhere, require_same
from hvdkit.parallel.micro_batches import joined, micro_batches_of


class PipelineBatch:
    """A batch and its micro-batches.

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
        self.rows = int(inputs[0].shape[0])
        self._inputs, self._targets, self._sample_weight = inputs, targets, sample_weight
        self._micro_batches = micro_batches_of(inputs, count)

    def input(self, number: int, micro_batch: int) -> Any:
        """One of the model's inputs, of a micro-batch."""
        return self._micro_batches[micro_batch].of(self._inputs[number])

    def targets(self, micro_batch: int) -> tuple[Any, Any]:
        """The targets and the sample weights of a micro-batch."""
        both = (self._targets, self._sample_weight)
        targets, weights = keras.tree.map_structure(self._micro_batches[micro_batch].of, both)
        return targets, weights

    def joined(self, outputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """An output of the model for the batch, of those for its micro-batches."""
        return joined(outputs, self._micro_batches)

    def fraction(self, micro_batch: int) -> float:
        """The fraction of the batch's rows that are in a micro-batch."""
        return float(self._micro_batches[micro_batch].share)

    def weight_fraction(self, micro_batch: int) -> float:
        """The fraction of the batch's sample weights that are in a micro-batch."""
        if self._sample_weight is None:
            return self.fraction(micro_batch)
        of_all = float(tf.reduce_sum(self._sample_weight))
        own = self._micro_batches[micro_batch].of(self._sample_weight)
        return float(tf.reduce_sum(own)) / of_all if of_all else 0.0


def as_tensors(data: Any) -> Any:
    """A batch as tensors, in its structure."""
    return keras.tree.map_structure(
        lambda leaf: leaf if leaf is None or tf.is_tensor(leaf) else tf.convert_to_tensor(leaf),
        data,
    )


def require_same_batch(data: Any, stages: ProcessSet) -> None:
    """Check that all stages were given the same rows; all of them call it.

    Args:
        data: a batch: x, y and sample weights in any structure.
        stages: the ranks of the pipeline.

    Raises:
        RankMismatchError: on every stage: the batches differ.
    """
    try:
        require_same("the batches of the stages", [_digest(data)], stages)
    except RankMismatchError as error:
        problem = (
            f"{error} All ranks of a pipeline have to be given the same rows in the same order: "
            "use hvd.shard, or the same arrays and the same seed for shuffling (hvd.set_mesh and "
            "hvd.set_random_seed)."
        )
        raise_everywhere(problem, RankMismatchError, stages)


def _digest(data: Any) -> str:
    leaves = [leaf for leaf in keras.tree.flatten(data) if isinstance(leaf, tf.Tensor)]
    crc = 0
    for leaf in leaves:
        crc = zlib.crc32(_bytes(leaf), crc)
    shapes = ", ".join(dtype_and_shape(leaf.dtype, leaf.shape) for leaf in leaves)
    return f"{shapes} with checksum {crc:08x}"


def _bytes(tensor: tf.Tensor) -> bytes | np.ndarray:
    if tensor.dtype == tf.string:
        return tf.io.serialize_tensor(tensor).numpy()  # type: ignore[no-any-return]
    return np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8)
