"""tf.data datasets: every rank reads the stream and keeps every N-th row of each global batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from hvdkit.data.batch import ShardedBatch
from hvdkit.data.contents import Content, Fact
from hvdkit.data.first_batch import FirstBatch
from hvdkit.data.peek import peek
from hvdkit.data.source import Part, pipeline_options
from hvdkit.data.unseeded import problem_with_order, seeds_of

SHUFFLE_BLOCK_ROWS = 10_000

_BATCHING = ("BatchDataset", "_BatchDataset", "ParallelBatchDataset", "PaddedBatchDataset")
_SEED_REMEDY = (
    "Give all ranks the same seed. Keras's image_dataset_from_directory and its like draw one on "
    "each rank if they get none: write image_dataset_from_directory(..., seed=1), or "
    "hvd.set_random_seed(1) at the start"
)
_UNBATCHING = ("UnbatchDataset", "FlatMapDataset", "InterleaveDataset")


class DatasetSource:
    """A `tf.data.Dataset`, batched or not, of known, unknown or infinite length.

    All ranks read the same stream, so they agree on its end without a word; a stream that is
    shuffled without a seed differs by rank and is refused.

    Args:
        dataset: the whole data, not a part of it.
        batched: whether its elements are batches; None to find out.
        shuffle: rows of a block that is shuffled, 0 not to shuffle.
        seed: seed of the shuffling.
    """

    def __init__(
        self, dataset: tf.data.Dataset, batched: bool | None, shuffle: int, seed: int
    ) -> None:
        self.source = dataset
        self.batching = _batch_size_of(dataset)
        self.batched = self.batching is not None if batched is None else batched
        self.shuffle = shuffle
        self.seed = seed
        self.first_batch: FirstBatch | None = None
        for spec in tf.nest.flatten(dataset.element_spec):
            if isinstance(spec, tf.SparseTensorSpec):
                raise TypeError("hvd.shard takes no sparse tensors; make them dense first.")

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

    def check(self, part: Part) -> None:
        """See `Source.check`."""
        if problem := problem_with_order(self.source):
            raise ValueError(problem)
        if self._rows_per_rank(part) is None:
            raise ValueError("hvd.shard needs batch_size, the rows of one rank in a batch.")
        length = self._length()
        if length is not None and not self.batched and length < part.size:
            raise ValueError(
                f"the data has {length} rows, fewer than the {part.size} ranks: "
                "start fewer ranks, or give more data."
            )

    def num_batches(self, part: Part, first: int = 0) -> int | None:
        """See `Source.num_batches`."""
        length = self._length()
        if length is None:
            return None
        if not self.batched:
            full, rest = divmod(length - first, self._global_batch(part))
            return full + (rest > 0 and not part.drop_remainder)
        if part.drop_remainder or self.batching is None:
            return None
        # The last batch has at least one row, and at most as many as the others.
        least, most = (length - 1) * self.batching + 1 - first, length * self.batching - first
        width = self._global_batch(part)
        count = -(-most // width)
        return count if -(-least // width) == count else None

    def may_be_uneven(self, part: Part, first: int = 0) -> bool:
        """See `Source.may_be_uneven`."""
        if part.drop_remainder or part.size == 1 or self._infinite():
            return False
        length = self._length()
        if length is None or self.batched:
            return True
        return ((length - first) % self._global_batch(part)) % part.size != 0

    def place_after(self, part: Part, batches: int, first: int = 0) -> int:
        """See `Source.place_after`."""
        place = first + batches * self._global_batch(part)
        length = self._length()
        return place if length is None or self.batched else min(length, place)

    def positions(self, part: Part, rows: int) -> np.ndarray:
        """See `Source.positions`."""
        return part.rank + part.size * np.arange(rows)

    def on_epoch_begin(self) -> None:
        """Nothing to do."""

    def on_epoch_end(self) -> None:
        """Nothing to do."""

    def dataset(
        self, part: Part, next_epoch: Callable[[], int], *, in_order: bool, first: int = 0
    ) -> tf.data.Dataset:
        """See `Source.dataset`."""
        width = self._global_batch(part)
        dataset, batched = self.source, self.batched
        if self.shuffle and not in_order:
            dataset, batched = self._shuffled(next_epoch), True
        if first:
            dataset, batched = (dataset.unbatch() if batched else dataset).skip(first), False
        dataset = _in_batches(dataset, batched, width, drop_remainder=part.drop_remainder)
        if part.size > 1:
            keep = _keep_rows(part, tag=self.may_be_uneven(part, first), first_step=first == 0)
            numbered = dataset.enumerate()
            if self.first_batch is not None:
                numbered = self.first_batch.noted(numbered)
            dataset = numbered.map(keep)
        count = self.num_batches(part, first)
        if count is not None:
            dataset = dataset.apply(tf.data.experimental.assert_cardinality(count))
        return pipeline_options(dataset)

    def _shuffled(self, next_epoch: Callable[[], int]) -> tf.data.Dataset:
        """Blocks of rows, each in an order that follows from seed, epoch and block.

        `tf.data.Dataset.shuffle` would mix in TensorFlow's global seed, which may differ by rank.
        """
        blocks = _in_batches(self.source, self.batched, self.shuffle).enumerate()

        def epochs() -> Iterator[int]:
            yield next_epoch()

        def shuffled(epoch: tf.Tensor) -> tf.data.Dataset:
            def shuffle(block: tf.Tensor, *rows: Any) -> Any:
                data = rows if len(rows) > 1 else rows[0]
                count = tf.shape(tf.nest.flatten(data)[0])[0]
                seed = tf.stack([self.seed * 1_000_003 + epoch, block])
                order = tf.random.experimental.stateless_shuffle(tf.range(count), seed)
                return tf.nest.map_structure(lambda part: tf.gather(part, order), data)

            return blocks.map(shuffle)

        epoch = tf.data.Dataset.from_generator(epochs, output_signature=tf.TensorSpec([], tf.int64))
        return epoch.flat_map(shuffled)

    def _length(self) -> int | None:
        cardinality = int(self.source.cardinality())
        return cardinality if cardinality >= 0 else None

    def _infinite(self) -> bool:
        return int(self.source.cardinality()) == int(tf.data.INFINITE_CARDINALITY)

    def _rows_per_rank(self, part: Part) -> int | None:
        return part.batch_size if part.batch_size is not None else self.batching

    def _global_batch(self, part: Part) -> int:
        rows = self._rows_per_rank(part)
        assert rows is not None
        return rows * part.size


def _in_batches(
    dataset: tf.data.Dataset, batched: bool, rows: int, *, drop_remainder: bool = False
) -> tf.data.Dataset:
    batch = dataset.rebatch if batched else dataset.batch
    return batch(rows, drop_remainder=drop_remainder)


def _keep_rows(part: Part, *, tag: bool, first_step: bool) -> Callable[..., Any]:
    rank, size = part.rank, part.size

    def keep(step: tf.Tensor, *elements: Any) -> Any:
        batch = elements if len(elements) > 1 else elements[0]
        rows = tf.shape(tf.nest.flatten(batch)[0], out_type=tf.int64)[0]
        enough = tf.debugging.Assert(
            tf.logical_or(step > 0 if first_step else True, rows >= size),
            [f"the data has fewer rows than the {size} ranks: start fewer ranks, or give more."],
        )
        with tf.control_dependencies([enough] if enough is not None else []):
            own = tf.range(rank, tf.maximum(rows, rank), size, dtype=tf.int64)
            picked = tf.cond(tf.size(own) > 0, lambda: own, lambda: tf.zeros([1], tf.int64))
        data = tf.nest.map_structure(lambda part: tf.gather(part, picked), batch)
        if not tag:
            return data
        scale = tf.cast(size * tf.size(own, out_type=tf.int64), tf.float32)
        return ShardedBatch(data, scale / tf.cast(rows, tf.float32))

    return keep


def _ancestors(dataset: tf.data.Dataset) -> list[tf.data.Dataset]:
    """The dataset and those it is made from, as long as each has one input."""
    chain = [dataset]
    while len(inputs := chain[-1]._inputs()) == 1:
        chain.append(inputs[0])
    return chain


def _batch_size_of(dataset: tf.data.Dataset) -> int | None:
    """Rows of a full batch, or None for a dataset of single samples."""
    for step in _ancestors(dataset):
        name = type(step).__name__.lstrip("_")
        if name in _UNBATCHING:
            return None
        if name in _BATCHING:
            return int(step._batch_size)
    return None
