"""A function of one row, which each rank calls for its own rows only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from hvdkit.data.batch import ShardedBatch
from hvdkit.data.contents import Content
from hvdkit.data.first_batch import FirstBatch
from hvdkit.data.packed import pack, unpacked
from hvdkit.data.rows import batch_rows
from hvdkit.data.source import Sharding, Source, pipeline_options
from hvdkit.engine.cores import affinity

RowFunction = Callable[..., Any]

# More than a batch has.
_MOST_ROWS = 1 << 32


class MappedSource:
    """The rows of another source, each put through a function after they are dealt out.

    Args:
        rows: arrays, or a dataset of samples.
        function: takes and returns a row, as for `tf.data.Dataset.map`.
    """

    def __init__(self, rows: Source, function: RowFunction) -> None:
        self.source = rows
        self.function = function

    @property
    def identity(self) -> list[object]:
        """That of the rows."""
        return self.source.identity

    @property
    def first_batch(self) -> FirstBatch | None:
        """That of the rows."""
        return self.source.first_batch

    def contents(self, *, sampled: bool) -> list[Content]:
        """See `Source.contents`: those of the rows, as they are before the function."""
        return self.source.contents(sampled=sampled)

    def check(self, sharding: Sharding) -> None:
        """See `Source.check`."""
        if sharding.batch_size is None:
            raise ValueError("hvd.shard needs batch_size, the rows of one rank in a batch.")
        self.source.check(sharding)

    def num_batches(self, sharding: Sharding, first: int = 0) -> int | None:
        """See `Source.num_batches`."""
        return self.source.num_batches(sharding, first)

    def rows_of_step(self, sharding: Sharding) -> int | None:
        """See `Source.rows_of_step`."""
        return self.source.rows_of_step(sharding)

    def may_be_uneven(self, sharding: Sharding, first: int = 0) -> bool:
        """See `Source.may_be_uneven`."""
        return self.source.may_be_uneven(sharding, first)

    def place_after(self, sharding: Sharding, batches: int, first: int = 0) -> int:
        """See `Source.place_after`."""
        return self.source.place_after(sharding, batches, first)

    def positions(self, sharding: Sharding, step: int, rows: int) -> np.ndarray:
        """See `Source.positions`."""
        return self.source.positions(sharding, step, rows)

    def on_epoch_begin(self) -> None:
        """See `Source.on_epoch_begin`."""
        self.source.on_epoch_begin()

    def on_epoch_end(self) -> None:
        """See `Source.on_epoch_end`."""
        self.source.on_epoch_end()

    def dataset(
        self, sharding: Sharding, next_epoch: Callable[[], int], *, in_order: bool, first: int = 0
    ) -> tf.data.Dataset:
        """See `Source.dataset`."""
        assert sharding.batch_size is not None
        batches = self.source.dataset(sharding, next_epoch, in_order=in_order, first=first)
        if not isinstance(batches.element_spec, ShardedBatch):
            mapped = batches.unbatch().map(self.function, num_parallel_calls=_threads())
            mapped = mapped.batch(sharding.batch_size)
        elif sharding.unequal:
            mapped = self._in_unequal_batches(batches)
        else:
            rows = batches.map(_with_scales).unbatch()
            mapped = rows.map(_on_data(self.function), num_parallel_calls=_threads())
            mapped = mapped.batch(sharding.batch_size).map(_tagged)
        # All batches but the last are full, so these are the batches that there were.
        count = self.num_batches(sharding, first)
        if count is not None:
            mapped = mapped.apply(tf.data.experimental.assert_cardinality(count))
        options = tf.data.Options()
        # A function that waits, for a file say, keeps no thread from the training step.
        options.threading.private_threadpool_size = _threads() + 1
        return pipeline_options(mapped.with_options(options))

    def _in_unequal_batches(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        """The same batches, whose rows have been mapped one by one; each may have any number."""

        def numbered(step: tf.Tensor, batch: ShardedBatch) -> Any:
            rows = batch_rows(batch.data)
            key = step * _MOST_ROWS + rows
            return batch.data, tf.fill([rows], batch.scale), tf.fill([rows], key)

        def mapped(row: Any, scale: tf.Tensor, key: tf.Tensor) -> Any:
            return _called(self.function, row), scale, key

        rows = batches.enumerate().map(numbered).unbatch()
        return (
            rows.map(mapped, num_parallel_calls=_threads())
            .group_by_window(
                key_func=lambda row, scale, key: key,
                reduce_func=lambda key, window: window.batch(key % _MOST_ROWS),
                window_size_func=lambda key: key % _MOST_ROWS,
            )
            .map(lambda data, scales, keys: _tagged(data, scales))
        )


def packed_samples(
    samples: tf.data.Dataset, function: RowFunction
) -> tuple[tf.data.Dataset, RowFunction]:
    """Samples of any shapes as rows of one shape, and a function of such a row.

    Args:
        samples: a dataset that is not batched.
        function: a function of a sample.
    """
    spec = samples.element_spec
    if all(s.shape.is_fully_defined() for s in tf.nest.flatten(spec, expand_composites=True)):
        return samples, function

    def unpack_first(values: tf.Tensor) -> Any:
        return _called(function, unpacked(values, spec))

    return samples.map(lambda *sample: pack(sample)), unpack_first


def _with_scales(batch: ShardedBatch) -> tuple[Any, tf.Tensor]:
    return batch.data, tf.fill([batch_rows(batch.data)], batch.scale)


def _on_data(function: RowFunction) -> RowFunction:
    def mapped(row: Any, scale: tf.Tensor) -> tuple[Any, tf.Tensor]:
        return _called(function, row), scale

    return mapped


def _called(function: RowFunction, row: Any) -> Any:
    """As `tf.data.Dataset.map` calls it: a tuple is its arguments."""
    return function(*row) if isinstance(row, tuple) else function(row)


def _tagged(data: Any, scales: tf.Tensor) -> ShardedBatch:
    return ShardedBatch(data, scales[0])


def _threads() -> int:
    """As many as TensorFlow runs operations at a time on this rank."""
    return tf.config.threading.get_inter_op_parallelism_threads() or len(affinity())
