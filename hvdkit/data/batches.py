"""tf.data datasets of batches that can't be put together, as they differ in more than their rows.

`padded_batch` and `bucket_by_sequence_length` make such batches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from hvdkit.data.batch import ShardedBatch, dealt_positions, kept_positions
from hvdkit.data.batching import rows_of_every_batch
from hvdkit.data.datasets import StreamSource
from hvdkit.data.dealt import own_rows
from hvdkit.data.packed import pack, unpacked
from hvdkit.data.rows import batch_rows, take_rows
from hvdkit.data.shuffling import shuffled
from hvdkit.data.source import Sharding, pipeline_options


class _BatchesSource(StreamSource):
    """Batches that stay as they are; places in an epoch count batches."""

    def _ordered(
        self, next_epoch: Callable[[], int], *, in_order: bool, first: int
    ) -> tf.data.Dataset:
        """The batches in the order of an epoch, from place `first` on."""
        batches, spec = self.source, self.source.element_spec
        if self.shuffle and not in_order:
            block = max(1, self.shuffle // (self.batching.rows or 1))
            blocks = batches.map(lambda *batch: pack(batch)).batch(block)
            mixed = shuffled(blocks, self.seed, next_epoch)
            batches = mixed.unbatch().map(lambda values: unpacked(values, spec))
        return self.noted(batches.skip(first) if first else batches)


class KeptBatchesSource(_BatchesSource):
    """Whole batches: of N in a row, each rank takes one.

    A global batch is N batches; where they have unequal rows, a rank's loss counts its rows.
    """

    def check(self, sharding: Sharding) -> None:
        """See `Source.check`."""
        super().check(sharding)
        if sharding.unequal:
            raise ValueError(
                "weights divide the rows of batches, and of this dataset each rank takes whole "
                "batches, which differ in more than their rows: make batches of batch_size x ranks "
                "rows, and give hvd.shard the batch_size, so that each batch is divided; or leave "
                "weights out."
            )
        if self.length is not None and self.length < sharding.size:
            raise ValueError(
                f"the data has {self.length} batches, fewer than the {sharding.size} ranks: "
                "make smaller batches, or start fewer ranks."
            )

    def num_batches(self, sharding: Sharding, first: int = 0) -> int | None:
        """See `Source.num_batches`."""
        if self.length is None or self._leaves_short_out(sharding):
            return None
        full, rest = divmod(self.length - first, sharding.size)
        return full + (rest > 0 and not sharding.drop_remainder)

    def rows_of_step(self, sharding: Sharding) -> None:
        """See `Source.rows_of_step`."""

    def may_be_uneven(self, sharding: Sharding, first: int = 0) -> bool:
        """See `Source.may_be_uneven`."""
        if sharding.size == 1:
            return False
        if rows_of_every_batch(self.source) is None:
            return not self._leaves_short_out(sharding)
        if sharding.drop_remainder or self.infinite:
            return False
        return self.length is None or (self.length - first) % sharding.size != 0

    def place_after(self, sharding: Sharding, batches: int, first: int = 0) -> int:
        """See `Source.place_after`."""
        place = first + batches * sharding.size
        return place if self.length is None else min(self.length, place)

    def positions(self, sharding: Sharding, step: int, rows: int) -> np.ndarray:
        """See `Source.positions`."""
        return kept_positions(sharding.rank, sharding.size, step, rows)

    def dataset(
        self, sharding: Sharding, next_epoch: Callable[[], int], *, in_order: bool, first: int = 0
    ) -> tf.data.Dataset:
        """See `Source.dataset`."""
        batches = self._ordered(next_epoch, in_order=in_order, first=first)
        if sharding.size > 1:
            batches = self._own(batches, sharding, tag=self.may_be_uneven(sharding, first))
        elif self._leaves_short_out(sharding):
            batches = batches.filter(lambda *batch: batch_rows(batch) == self.batching.rows)
        count = self.num_batches(sharding, first)
        if count is not None:
            batches = batches.apply(tf.data.experimental.assert_cardinality(count))
        return pipeline_options(batches)

    def _leaves_short_out(self, sharding: Sharding) -> bool:
        """Whether a global batch is left out where it is known to lack rows."""
        known = self.batching.rows is not None and self.batching.full
        return sharding.drop_remainder and known and rows_of_every_batch(self.source) is None

    def _own(self, batches: tf.data.Dataset, sharding: Sharding, *, tag: bool) -> tf.data.Dataset:
        spec = batches.element_spec
        counted = batches.map(lambda *batch: (batch_rows(batch), pack(batch)))
        groups = counted.batch(sharding.size, drop_remainder=sharding.drop_remainder)
        if self._leaves_short_out(sharding):
            full = sharding.size * (self.batching.rows or 0)
            groups = groups.filter(lambda rows, _: tf.reduce_sum(rows) == full)

        def own(rows: tf.Tensor, values: tf.Tensor) -> Any:
            has = tf.size(rows) > sharding.rank
            number = tf.where(has, sharding.rank, 0)
            batch = unpacked(values[number], spec)
            if not tag:
                return batch
            data = take_rows(batch, tf.range(tf.where(has, rows[number], 1)))
            own_rows = tf.where(has, rows[number], 0)
            scale = sharding.size * own_rows / tf.reduce_sum(rows)
            return ShardedBatch(data, tf.cast(scale, tf.float32))

        return groups.map(own)


class ShardedBatchesSource(_BatchesSource):
    """Batches of N x batch_size rows: global batches as they are, whose rows are dealt out."""

    def num_batches(self, sharding: Sharding, first: int = 0) -> int | None:
        """See `Source.num_batches`."""
        if self.length is None or (sharding.drop_remainder and self._may_be_short()):
            return None
        return self.length - first

    def rows_of_step(self, sharding: Sharding) -> int:
        """See `Source.rows_of_step`."""
        assert self.batching.rows is not None
        return self.batching.rows

    def may_be_uneven(self, sharding: Sharding, first: int = 0) -> bool:
        """See `Source.may_be_uneven`."""
        return sharding.unequal or (not sharding.drop_remainder and self._may_be_short())

    def place_after(self, sharding: Sharding, batches: int, first: int = 0) -> int:
        """See `Source.place_after`."""
        place = first + batches
        return place if self.length is None else min(self.length, place)

    def positions(self, sharding: Sharding, step: int, rows: int) -> np.ndarray:
        """See `Source.positions`."""
        deal = sharding.deal(self.rows_of_step(sharding))
        return dealt_positions(deal, sharding.rank, step, rows)

    def dataset(
        self, sharding: Sharding, next_epoch: Callable[[], int], *, in_order: bool, first: int = 0
    ) -> tf.data.Dataset:
        """See `Source.dataset`."""
        batches = self._ordered(next_epoch, in_order=in_order, first=first)
        if sharding.drop_remainder:
            batches = batches.filter(lambda *batch: batch_rows(batch) == self.batching.rows)
        batches = own_rows(
            batches,
            sharding,
            self.rows_of_step(sharding),
            in_order=in_order,
            tag=self.may_be_uneven(sharding, first),
            first=first,
        )
        count = self.num_batches(sharding, first)
        if count is not None:
            batches = batches.apply(tf.data.experimental.assert_cardinality(count))
        return pipeline_options(batches)

    def _may_be_short(self) -> bool:
        return rows_of_every_batch(self.source) is None
