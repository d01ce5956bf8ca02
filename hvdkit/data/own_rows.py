"""Data that is sharded already: each rank has rows of its own, and maybe more than the others."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from hvdkit.data.batch import ShardedBatch, batch_scale_of
from hvdkit.data.columns import columns_of, flat_columns
from hvdkit.data.contents import Content
from hvdkit.data.first_batch import FirstBatch
from hvdkit.data.python_stream import from_python
from hvdkit.data.source import Sharding, pipeline_options
from hvdkit.engine import logger
from hvdkit.engine.elastic import is_elastic, world_number

_FINGERPRINT = 1 << 32


class OwnRowsSource:
    """A rank's own rows, of which it reads `batch_size` in each step as long as it has any.

    A step of all ranks is what one process would read that had these rows together: a rank's loss
    counts the rows that it has in the step, and one without any has a row of weight zero. The order
    of the data is rank 0's rows, then rank 1's, and so on. A rank shuffles its own rows.

    Args:
        data: the arrays of this rank, see `columns_of`.
        rows: how many rows each rank has.
        rank: this rank's number among them.
        shuffle: whether to shuffle each epoch.
        seed: seed of the shuffling.
    """

    first_batch: FirstBatch | None = None

    def __init__(self, data: Any, rows: Sequence[int], rank: int, shuffle: bool, seed: int) -> None:
        self.data = columns_of(data)
        self.rows = np.asarray(rows)
        self.rank = rank
        self.shuffle = shuffle
        self.seed = seed
        # In an elastic job the ranks have had other rows, of which some may have been read.
        self._cut_anew = is_elastic() and world_number() > 1

    @property
    def identity(self) -> list[object]:
        """Shapes and types."""
        return [str(column.spec) for column in flat_columns(self.data)]

    def contents(self, *, sampled: bool) -> list[Content]:
        """Nothing that is alike on the ranks."""
        del sampled
        return []

    def check(self, sharding: Sharding) -> None:
        """See `Source.check`."""
        if sharding.batch_size is None:
            raise ValueError("batch_size is needed: the rows of one rank in a batch.")
        if sharding.size != len(self.rows):
            raise ValueError(
                f"the rows are those of {len(self.rows)} ranks, and can't be divided over "
                f"{sharding.size}: ask for the rows again when the ranks have changed."
            )
        if not self.rows.sum():
            raise ValueError("the data has no rows.")

    def num_batches(self, sharding: Sharding, first: int = 0) -> int:
        """See `Source.num_batches`."""
        batch = self._batch_size(sharding)
        rows = int(self.rows.min() if sharding.drop_remainder else self.rows.max())
        count = rows // batch if sharding.drop_remainder else -(-rows // batch)
        return max(0, count - self._steps_before(sharding, first))

    def rows_of_step(self, sharding: Sharding) -> None:
        """See `Source.rows_of_step`."""

    def may_be_uneven(self, sharding: Sharding, first: int = 0) -> bool:
        """See `Source.may_be_uneven`."""
        del first
        return not sharding.drop_remainder and len(set(self.rows.tolist())) > 1

    def place_after(self, sharding: Sharding, batches: int, first: int = 0) -> int:
        """See `Source.place_after`; only the same ranks with the same rows understand a place."""
        steps = self._steps_before(sharding, first) + batches
        if steps == 0 or self._cut_anew:
            return 0
        return steps * _FINGERPRINT + self._fingerprint(sharding)

    def positions(self, sharding: Sharding, step: int, rows: int) -> np.ndarray:
        """See `Source.positions`."""
        numbers = step * self._batch_size(sharding) + np.arange(rows)
        return np.stack([np.full(rows, sharding.rank), numbers], axis=1)

    def on_epoch_begin(self) -> None:
        """Nothing to do."""

    def on_epoch_end(self) -> None:
        """Nothing to do."""

    def order(self, epoch: int) -> np.ndarray:
        """The order of this rank's rows in an epoch (int64)."""
        own = int(self.rows[self.rank])
        if not self.shuffle:
            return np.arange(own)
        return np.random.default_rng([self.seed, epoch, self.rank]).permutation(own)

    def dataset(
        self, sharding: Sharding, next_epoch: Callable[[], int], *, in_order: bool, first: int = 0
    ) -> tf.data.Dataset:
        """See `Source.dataset`."""
        uneven = self.may_be_uneven(sharding)
        before = self._steps_before(sharding, first)
        count = self.num_batches(sharding, first)

        def batches() -> Iterator[Any]:
            self._cut_anew = False
            own = int(self.rows[self.rank])
            order = np.arange(own) if in_order else self.order(next_epoch())
            for step in range(before, before + count):
                data, scale = self._batch(order, step, sharding)
                yield ShardedBatch(data, scale) if uneven else data

        spec = tf.nest.map_structure(lambda c: c if c is None else c.spec, self.data)
        signature = ShardedBatch(spec, tf.TensorSpec([], tf.float32)) if uneven else spec
        dataset = from_python(batches, signature)
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(count))
        return pipeline_options(dataset)

    def _batch(self, order: np.ndarray, step: int, sharding: Sharding) -> tuple[Any, np.float32]:
        size = self._batch_size(sharding)
        total = int(np.clip(self.rows - step * size, 0, size).sum())
        own = order[step * size : (step + 1) * size]
        scale = np.float32(batch_scale_of(len(own), total, sharding.size))
        if not len(order):
            return self._padding(), scale
        picked = own if len(own) else order[:1]
        return tf.nest.map_structure(lambda c: c if c is None else c.take(picked), self.data), scale

    def _padding(self) -> Any:
        """A row of zeros, or empty text, for a rank that has none to repeat."""

        def zeros(column: Any) -> Any:
            if column is None:
                return None
            shape, dtype = column.spec.shape[1:], column.spec.dtype
            if dtype == tf.string:
                return np.full((1, *shape), b"", dtype=object)
            return np.zeros((1, *shape), dtype.as_numpy_dtype)

        return tf.nest.map_structure(zeros, self.data)

    def _batch_size(self, sharding: Sharding) -> int:
        assert sharding.batch_size is not None
        return sharding.batch_size

    def _fingerprint(self, sharding: Sharding) -> int:
        return zlib.crc32(repr((self.rows.tolist(), sharding.batch_size)).encode())

    def _steps_before(self, sharding: Sharding, place: int) -> int:
        steps, fingerprint = divmod(place, _FINGERPRINT)
        if place == 0:
            return 0
        if fingerprint != self._fingerprint(sharding):
            logger.warning(
                "hvdkit: the ranks have other rows than where this epoch was left; it begins "
                "again, so some rows are read twice in it, and none is left out."
            )
            return 0
        return steps
