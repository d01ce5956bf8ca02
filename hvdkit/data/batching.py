"""What can be known of how a `tf.data.Dataset` is batched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import tensorflow as tf

_BATCHING = (
    "BatchDataset",
    "ParallelBatchDataset",
    "PaddedBatchDataset",
    "DenseToSparseBatchDataset",
    "MapAndBatchDataset",
)
_REBATCHING = ("RebatchDataset", "LegacyRebatchDataset")
_UNBATCHING = ("UnbatchDataset", "FlatMapDataset", "InterleaveDataset")
_KEEPING_ORDER = (
    "CacheDataset",
    "MapDataset",
    "OptionsDataset",
    "ParallelMapDataset",
    "PrefetchDataset",
    "SkipDataset",
    "TakeDataset",
    "ZipDataset",
)


@dataclass(frozen=True)
class Batching:
    """How a dataset is batched.

    Attributes:
        batched: whether its elements are batches.
        rows: rows of a full batch; None for samples, and where only the data knows.
        full: whether no batch but the last can be shorter.
    """

    batched: bool
    rows: int | None = None
    full: bool = True


def batching_of(dataset: tf.data.Dataset, batched: bool | None) -> Batching:
    """Find out how a dataset is batched, from the transformations it is made by.

    Args:
        dataset: the dataset.
        batched: what the user says of it; None to find out.
    """
    found = _found(dataset)
    if batched is None or batched == found.batched:
        return found
    return Batching(batched, full=False)


def has_batches_of_one_shape(dataset: tf.data.Dataset) -> bool:
    """Whether batches differ in their rows only, as far as their types tell."""
    return all(
        spec.shape.rank is not None and spec.shape[1:].is_fully_defined()
        for spec in tf.nest.flatten(dataset.element_spec)
        if isinstance(spec, tf.TensorSpec)
    )


def rows_of_every_batch(dataset: tf.data.Dataset) -> int | None:
    """The rows that every batch has, also the last; None if they may differ."""
    specs = tf.nest.flatten(dataset.element_spec, expand_composites=False)
    shapes = [spec.shape for spec in specs if isinstance(spec, tf.TensorSpec)]
    rows = {shape[0] if shape.rank else None for shape in shapes}
    return rows.pop() if len(rows) == 1 else None


def _found(dataset: tf.data.Dataset) -> Batching:
    name = type(dataset).__name__.lstrip("_")
    if name in _UNBATCHING:
        return Batching(False)
    if name in _BATCHING:
        return Batching(True, _batch_size(dataset))
    if name in _REBATCHING:
        sizes = {int(size) for size in tf.reshape(dataset._batch_sizes, [-1])}
        return Batching(True, sizes.pop()) if len(sizes) == 1 else Batching(True, full=False)
    if name == "GroupByWindowDataset":  # as `bucket_by_sequence_length` makes
        return Batching(True, full=False)
    inputs = [_found(one) for one in _inputs(dataset)]
    if not inputs or not all(one.batched for one in inputs):
        return Batching(False)
    rows = {one.rows for one in inputs}
    full = name in _KEEPING_ORDER and all(one.full for one in inputs)
    return Batching(True, rows.pop() if len(rows) == 1 else None, full)


def _batch_size(dataset: tf.data.Dataset) -> int:
    for name in ("_batch_size", "_batch_size_t"):
        if hasattr(dataset, name):
            return int(getattr(dataset, name))
    raise AssertionError(type(dataset).__name__)


def _inputs(dataset: tf.data.Dataset) -> Iterator[tf.data.Dataset]:
    """What a dataset takes its elements from: not the numbers that choose among datasets."""
    if type(dataset).__name__.lstrip("_") == "DirectedInterleaveDataset":
        yield from dataset._data_inputs
    else:
        yield from dataset._inputs()
