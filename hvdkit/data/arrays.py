"""Arrays in memory (or memory-mapped): each rank picks its rows by index."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from hvdkit.data.batch import ShardedBatch, batch_scale_of, dealt_positions, rank_rows
from hvdkit.data.columns import columns_of, flat_columns
from hvdkit.data.python_stream import from_python
from hvdkit.data.source import Part, pipeline_options


class ArraySource:
    """Rows of arrays, shuffled by a permutation that follows from seed and epoch.

    Args:
        data: what `fit` takes as arrays, see `columns_of`, all with the same number of rows.
        shuffle: whether to shuffle each epoch.
        seed: seed of the shuffling.
    """

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

    def check(self, part: Part) -> None:
        """See `Source.check`."""
        if part.batch_size is None:
            raise ValueError("hvd.shard needs batch_size, the rows of one rank in a batch.")
        if self.rows < part.size:
            raise ValueError(
                f"the data has {self.rows} rows, fewer than the {part.size} ranks: "
                "start fewer ranks, or give more data."
            )
        if part.drop_remainder and self.rows < self._global_batch(part):
            raise ValueError(
                f"the data has {self.rows} rows, less than one global batch of {part.size} x "
                f'{part.batch_size}: choose a smaller batch_size, or remainder="pad".'
            )

    def num_batches(self, part: Part, first: int = 0) -> int:
        """See `Source.num_batches`."""
        full, rest = divmod(self.rows - first, self._global_batch(part))
        return full + (rest > 0 and not part.drop_remainder)

    def may_be_uneven(self, part: Part, first: int = 0) -> bool:
        """See `Source.may_be_uneven`."""
        rest = (self.rows - first) % self._global_batch(part)
        return not part.drop_remainder and rest % part.size != 0

    def place_after(self, part: Part, batches: int, first: int = 0) -> int:
        """See `Source.place_after`."""
        return min(self.rows, first + batches * self._global_batch(part))

    def positions(self, part: Part, step: int, rows: int) -> np.ndarray:
        """See `Source.positions`."""
        return dealt_positions(part.rank, part.size, step, rows)

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
        self, part: Part, next_epoch: Callable[[], int], *, in_order: bool, first: int = 0
    ) -> tf.data.Dataset:
        """See `Source.dataset`."""
        uneven = self.may_be_uneven(part, first)
        count = self.num_batches(part, first)

        def batches() -> Iterator[Any]:
            order = np.arange(self.rows) if in_order else self.order(next_epoch())
            order = order[first:]
            for step in range(count):
                data, scale = self._batch(order, step, part)
                yield ShardedBatch(data, scale) if uneven else data

        spec = tf.nest.map_structure(lambda c: c if c is None else c.spec, self.data)
        signature = ShardedBatch(spec, tf.TensorSpec([], tf.float32)) if uneven else spec
        dataset = from_python(batches, signature)
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(count))
        return pipeline_options(dataset)

    def _global_batch(self, part: Part) -> int:
        assert part.batch_size is not None
        return part.size * part.batch_size

    def _batch(self, order: np.ndarray, step: int, part: Part) -> tuple[Any, np.float32]:
        width = self._global_batch(part)
        rows = order[step * width : (step + 1) * width]
        own = rows[rank_rows(part.rank, part.size, len(rows))]
        scale = batch_scale_of(len(own), len(rows), part.size)
        picked = own if len(own) else rows[:1]
        data = tf.nest.map_structure(lambda c: c if c is None else c.take(picked), self.data)
        return data, np.float32(scale)
