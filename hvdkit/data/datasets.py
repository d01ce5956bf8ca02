"""tf.data datasets: every rank reads the stream and keeps its rows of each global batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from hvdkit.data.batch import dealt_positions
from hvdkit.data.batching import Batching, has_batches_of_one_shape, rows_of_every_batch
from hvdkit.data.contents import Content, Fact
from hvdkit.data.dealt import own_rows
from hvdkit.data.first_batch import FirstBatch
from hvdkit.data.peek import peek
from hvdkit.data.shuffling import shuffled
from hvdkit.data.source import Sharding, pipeline_options
from hvdkit.data.unseeded import problem_with_order, seeds_of

SHUFFLE_BLOCK_ROWS = 10_000

_SEED_REMEDY = (
    "Give all ranks the same seeds, also to tf.random.set_seed and keras.utils.set_random_seed, "
    "which takes part in every shuffle(..., seed=...): write hvd.set_random_seed(1) at the start. "
    "Keras's image_dataset_from_directory(...) and its like draw a seed on each rank if they get "
    "none: give them seed=1"
)


class StreamSource:
    """A `tf.data.Dataset`, of known, unknown or infinite length.

    All ranks read the same stream, so they agree on its end without a word; a stream that is
    in an order, or with rows, of the rank's own is refused.

    Args:
        dataset: the unsharded data.
        batching: how it is batched.
        shuffle: rows of a block that is shuffled, 0 not to shuffle.
        seed: seed of the shuffling.
    """

    def __init__(
        self, dataset: tf.data.Dataset, batching: Batching, shuffle: int, seed: int
    ) -> None:
        self.source = dataset
        self.batching = batching
        self.shuffle = shuffle
        self.seed = seed
        self.first_batch: FirstBatch | None = None

    @property
    def identity(self) -> list[object]:
        """The cardinality and the types."""
        return [f"cardinality {int(self.source.cardinality())}", str(self.source.element_spec)]

    def contents(self, *, sampled: bool) -> list[Content]:
        """See `Source.contents`."""
        seeds = "; ".join(seeds_of(self.source)) or "no seed"
        order: list[Content] = [Fact("the order of the dataset", seeds, _SEED_REMEDY)]
        if not sampled:
            return order
        found = peek(self.source)
        self.first_batch = None if found.complete else FirstBatch(found.draws)
        return order + found.contents

    def noted(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        """The same batches; the first one is noted where it can be seen in passing only."""
        return batches if self.first_batch is None else self.first_batch.noted(batches)

    def check(self, sharding: Sharding) -> None:
        """See `Source.check`."""
        if problem := problem_with_order(self.source):
            raise ValueError(problem)

    def on_epoch_begin(self) -> None:
        """Nothing to do."""

    def on_epoch_end(self) -> None:
        """Nothing to do."""

    @property
    def length(self) -> int | None:
        """The number of elements, if it is known and not infinite."""
        cardinality = int(self.source.cardinality())
        return cardinality if cardinality >= 0 else None

    @property
    def infinite(self) -> bool:
        """Whether there is no end."""
        return int(self.source.cardinality()) == int(tf.data.INFINITE_CARDINALITY)


class DatasetSource(StreamSource):
    """A dataset of samples, or of batches that can be cut anew into global batches."""

    def check(self, sharding: Sharding) -> None:
        """See `Source.check`."""
        super().check(sharding)
        if self._rows_per_rank(sharding) is None:
            raise ValueError("hvd.shard needs batch_size, the rows of one rank in a batch.")
        if self.length is not None and not self.batching.batched and self.length < sharding.size:
            raise ValueError(
                f"the data has {self.length} rows, fewer than the {sharding.size} ranks: "
                "start fewer ranks, or give more data."
            )

    def num_batches(self, sharding: Sharding, first: int = 0) -> int | None:
        """See `Source.num_batches`."""
        rows = self._rows()
        if rows is not None:
            full, rest = divmod(rows - first, self.rows_of_step(sharding))
            return full + (rest > 0 and not sharding.drop_remainder)
        batch = self.batching.rows
        if (
            sharding.drop_remainder
            or batch is None
            or self.length is None
            or not self.batching.full
        ):
            return None
        # The last batch has at least one row, and at most as many as the others.
        least, most = (self.length - 1) * batch + 1 - first, self.length * batch - first
        width = self.rows_of_step(sharding)
        count = -(-most // width)
        return count if -(-least // width) == count else None

    def rows_of_step(self, sharding: Sharding) -> int:
        """See `Source.rows_of_step`."""
        rows = self._rows_per_rank(sharding)
        assert rows is not None
        return rows * sharding.size

    def may_be_uneven(self, sharding: Sharding, first: int = 0) -> bool:
        """See `Source.may_be_uneven`."""
        if sharding.unequal:
            return True
        if sharding.drop_remainder or sharding.size == 1 or self.infinite:
            return False
        rows = self._rows()
        return rows is None or ((rows - first) % self.rows_of_step(sharding)) % sharding.size != 0

    def place_after(self, sharding: Sharding, batches: int, first: int = 0) -> int:
        """See `Source.place_after`."""
        place = first + batches * self.rows_of_step(sharding)
        rows = self._rows()
        return place if rows is None else min(rows, place)

    def positions(self, sharding: Sharding, step: int, rows: int) -> np.ndarray:
        """See `Source.positions`."""
        deal = sharding.deal(self.rows_of_step(sharding))
        return dealt_positions(deal, sharding.rank, step, rows)

    def dataset(
        self, sharding: Sharding, next_epoch: Callable[[], int], *, in_order: bool, first: int = 0
    ) -> tf.data.Dataset:
        """See `Source.dataset`."""
        dataset, batched = self.source, self.batching.batched
        if batched and not has_batches_of_one_shape(dataset):
            dataset = _with_one_shape(dataset)
        if self.shuffle and not in_order:
            blocks = _in_batches(dataset, batched, self.shuffle)
            dataset, batched = shuffled(blocks, self.seed, next_epoch), True
        if first:
            dataset, batched = (dataset.unbatch() if batched else dataset).skip(first), False
        width = self.rows_of_step(sharding)
        dataset = _in_batches(dataset, batched, width, drop_remainder=sharding.drop_remainder)
        if sharding.size > 1:
            tag = self.may_be_uneven(sharding, first)
            dataset = own_rows(
                self.noted(dataset), sharding, width, in_order=in_order, tag=tag, first=first
            )
        count = self.num_batches(sharding, first)
        if count is not None:
            dataset = dataset.apply(tf.data.experimental.assert_cardinality(count))
        return pipeline_options(dataset)

    def _rows(self) -> int | None:
        """Rows of the unsharded data, if they are known."""
        if not self.batching.batched or self.length is None:
            return self.length
        rows = rows_of_every_batch(self.source)
        return None if rows is None else rows * self.length

    def _rows_per_rank(self, sharding: Sharding) -> int | None:
        return sharding.batch_size if sharding.batch_size is not None else self.batching.rows


def _in_batches(
    dataset: tf.data.Dataset, batched: bool, rows: int, *, drop_remainder: bool = False
) -> tf.data.Dataset:
    batch = dataset.rebatch if batched else dataset.batch
    return batch(rows, drop_remainder=drop_remainder)


def _with_one_shape(batches: tf.data.Dataset) -> tf.data.Dataset:
    """The same batches, or an error where one can't be put together with those before it."""

    def compare(before: tf.Tensor, batch: Any) -> Any:
        shapes = [tf.shape(v)[1:] for v in tf.nest.flatten(batch) if isinstance(v, tf.Tensor)]
        now = tf.strings.reduce_join(tf.strings.as_string(tf.concat(shapes, 0)), separator=",")
        same = tf.debugging.Assert(
            (before == "") | (before == now),
            [
                "the batches differ in a dimension other than rows, so they can't be cut into "
                "batches of batch_size rows: leave batch_size out, and each rank takes whole "
                "batches; or make batches of batch_size x ranks rows, and each is divided; or "
                "pad them all to one shape. Shapes (without rows):",
                before,
                now,
            ],
        )
        with tf.control_dependencies([same] if same is not None else []):
            return tf.identity(now), batch

    return batches.scan(tf.constant(""), compare)
