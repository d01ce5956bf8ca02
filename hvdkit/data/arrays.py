"""Arrays in memory (or memory-mapped): each rank picks its rows by index."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from hvdkit.data.batch import ShardedBatch, batch_scale_of, dealt_positions
from hvdkit.data.columns import Column, DenseColumn, columns_of, flat_columns
from hvdkit.data.contents import Content, sample_of, sampled_rows, samples_of
from hvdkit.data.first_batch import FirstBatch
from hvdkit.data.python_stream import from_python
from hvdkit.data.shares import Deal
from hvdkit.data.source import Sharding, pipeline_options


class ArraySource:
    """Rows of arrays, shuffled by a permutation that follows from seed and epoch.

    Args:
        data: what `fit` takes as arrays, see `columns_of`, all with the same number of rows.
        shuffle: whether to shuffle each epoch.
        seed: seed of the shuffling.
    """

    first_batch: FirstBatch | None = None

    def __init__(self, data: Any, shuffle: bool, seed: int) -> None:
        self.data = columns_of(data)
        self.shuffle = shuffle
        self.seed = seed
        lengths = {column.rows for column in flat_columns(self.data)}
        if not lengths:
            raise ValueError("the data holds no arrays.")
        if len(lengths) != 1:
            raise ValueError(f"the arrays have different numbers of rows: {sorted(lengths)}.")
        self.rows = lengths.pop()

    @property
    def identity(self) -> list[object]:
        """Rows, shapes and types."""
        return [column.identity for column in flat_columns(self.data)]

    def contents(self, *, sampled: bool) -> list[Content]:
        """See `Source.contents`."""
        columns = flat_columns(self.data) if sampled else []
        found = [_seen(column, f"array {i} of the data") for i, column in enumerate(columns)]
        return [content for contents in found for content in contents]

    def check(self, sharding: Sharding) -> None:
        """See `Source.check`."""
        if sharding.batch_size is None:
            raise ValueError("hvd.shard needs batch_size, the rows of one rank in a batch.")
        if self.rows < sharding.size:
            raise ValueError(
                f"the data has {self.rows} rows, fewer than the {sharding.size} ranks: "
                "start fewer ranks, or give more data."
            )

    def num_batches(self, sharding: Sharding, first: int = 0) -> int:
        """See `Source.num_batches`."""
        full, rest = divmod(self.rows - first, self.rows_of_step(sharding))
        return full + (rest > 0 and not sharding.drop_remainder)

    def rows_of_step(self, sharding: Sharding) -> int:
        """See `Source.rows_of_step`."""
        assert sharding.batch_size is not None
        return sharding.size * sharding.batch_size

    def may_be_uneven(self, sharding: Sharding, first: int = 0) -> bool:
        """See `Source.may_be_uneven`."""
        if sharding.unequal:
            return True
        rest = (self.rows - first) % self.rows_of_step(sharding)
        return not sharding.drop_remainder and rest % sharding.size != 0

    def place_after(self, sharding: Sharding, batches: int, first: int = 0) -> int:
        """See `Source.place_after`."""
        return min(self.rows, first + batches * self.rows_of_step(sharding))

    def positions(self, sharding: Sharding, step: int, rows: int) -> np.ndarray:
        """See `Source.positions`."""
        deal = sharding.deal(self.rows_of_step(sharding))
        return dealt_positions(deal, sharding.rank, step, rows)

    def on_epoch_begin(self) -> None:
        """Nothing to do."""

    def on_epoch_end(self) -> None:
        """Nothing to do."""

    def order(self, epoch: int) -> np.ndarray:
        """The order of all rows in an epoch, the same on every rank (int64)."""
        if not self.shuffle:
            return np.arange(self.rows)
        return np.random.default_rng([self.seed, epoch]).permutation(self.rows)

    def dataset(
        self, sharding: Sharding, next_epoch: Callable[[], int], *, in_order: bool, first: int = 0
    ) -> tf.data.Dataset:
        """See `Source.dataset`."""
        uneven = self.may_be_uneven(sharding, first)
        count = self.num_batches(sharding, first)

        def batches() -> Iterator[Any]:
            order = np.arange(self.rows) if in_order else self.order(next_epoch())
            order = order[first:]
            deals = sharding.deals(self.rows_of_step(sharding), in_order=in_order)
            for step in range(count):
                data, scale = self._batch(order, step, sharding, deals(step))
                yield ShardedBatch(data, scale) if uneven else data

        spec = tf.nest.map_structure(lambda c: c if c is None else c.spec, self.data)
        signature = ShardedBatch(spec, tf.TensorSpec([], tf.float32)) if uneven else spec
        dataset = from_python(batches, signature)
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(count))
        return pipeline_options(dataset)

    def _batch(
        self, order: np.ndarray, step: int, sharding: Sharding, deal: Deal
    ) -> tuple[Any, np.float32]:
        width = self.rows_of_step(sharding)
        rows = order[step * width : (step + 1) * width]
        own = rows[deal.own(sharding.rank, len(rows))]
        scale = batch_scale_of(len(own), len(rows), sharding.size)
        picked = own if len(own) else rows[:1]
        data = tf.nest.map_structure(lambda c: c if c is None else c.take(picked), self.data)
        return data, np.float32(scale)


def _seen(column: Column, name: str) -> list[Content]:
    if isinstance(column, DenseColumn):
        return [sample_of(column.array, name)]
    return list(samples_of(column.take(np.asarray(sampled_rows(column.rows))), name))
