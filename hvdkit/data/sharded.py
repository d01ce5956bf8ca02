"""The data of one rank, for `fit`, `evaluate`, `predict`, and loops of one's own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import tensorflow as tf

from hvdkit.data.batch import CountedBatch, ShardedBatch, with_row_weights
from hvdkit.data.counting import as_sharded_batches
from hvdkit.data.lazy import LazyDataset
from hvdkit.data.mapped_batches import MappedBatchesSource
from hvdkit.data.measured import MeasuredShares
from hvdkit.data.shares import EQUAL
from hvdkit.data.source import Sharding, Source
from hvdkit.engine import ProcessSet


class ShardedData(LazyDataset):
    """One rank's shard of the data, made by `hvd.shard`.

    Give it to `fit`, `evaluate` or `predict` in the place of x, or to `fit` as
    `validation_data`. Iterating over it gives the batches of the next epoch as tensors: with
    `remainder="pad"`, or unequal shares, with a weight of each row in the last place,
    (x, y, weights).

    It is a `tf.data.Dataset` of these batches for whatever asks for one. `map` gives sharded data
    again, so models with a `fit` of their own that maps a function over a dataset, as all tasks of
    KerasHub do, take it.

    Attributes:
        source: the unsharded data.
        sharding: how it is sharded, and which shard is this rank's.
        process_set: the ranks that it is sharded over.
    """

    def __init__(self, source: Source, sharding: Sharding, process_set: ProcessSet) -> None:
        super().__init__()
        self.source = source
        self.sharding = sharding
        self.process_set = process_set
        self._epochs = [0]  # what `map` has made from this goes on with it
        self._first = 0
        self._pass = (0, 0)

    @property
    def part(self) -> Sharding:
        """The old name of `sharding`."""
        warnings.warn("ShardedData.part is called sharding now.", DeprecationWarning, stacklevel=2)
        return self.sharding

    @property
    def weights(self) -> tuple[float, ...] | None:
        """What the rows of each rank are in proportion to: as given, or as measured so far.

        None for equal shares.

        Example:
            >>> test = hvd.shard((x_test, y_test), 64, weights=train.weights)
        """
        return self.sharding.shares.weights

    @property
    def epoch(self) -> int:
        """The number of the next epoch, which decides its order."""
        return self._epochs[0]

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epochs[0] = epoch

    def __len__(self) -> int:
        """Batches of an epoch, equal on all ranks.

        Raises:
            TypeError: the length of the data is not known.
        """
        count = self.source.num_batches(self.sharding)
        if count is None:
            raise TypeError("the length of this data is not known before it has been read.")
        return count

    def __iter__(self) -> Iterator[Any]:
        self._refuse_measured("in a loop of your own")
        first, self._first = self._first, 0
        self._pass = (self.epoch, first)
        self.source.on_epoch_begin()
        for batch in as_sharded_batches(
            iter(self.dataset(self.sharding, first=first)), self.process_set
        ):
            weighted = isinstance(batch, ShardedBatch) or not self.sharding.drop_remainder
            yield with_row_weights(batch) if weighted else batch
        self.source.on_epoch_end()
        self._pass = (self.epoch, 0)

    def _make(self) -> tf.data.Dataset:
        dataset = self.dataset(self.sharding)
        if isinstance(dataset.element_spec, CountedBatch):
            raise TypeError(
                "how many rows the other ranks have in a step of this data is known only when it "
                "is read, so it can't be a tf.data.Dataset: give it to fit, evaluate or predict "
                "as it is, or go over it with `for`."
            )
        self._refuse_measured("as a tf.data.Dataset")
        if isinstance(dataset.element_spec, ShardedBatch) or not self.sharding.drop_remainder:
            return dataset.map(_with_row_weights)
        return dataset

    def map(self, map_func: Callable[..., Any], *args: Any, **kwargs: Any) -> ShardedData:
        """Sharded data whose batches go through a function.

        Args:
            map_func: called as by `tf.data.Dataset.map` with a batch of this rank, x, or x and y
                (and sample weights); it keeps the rows.
            *args: more arguments of `tf.data.Dataset.map`.
            **kwargs: more arguments of `tf.data.Dataset.map`.

        Example:
            >>> train = hvd.shard((images, labels), 32).map(lambda x, y: (augment(x), y))
        """
        options = dict(zip(("num_parallel_calls", "deterministic", "name"), args, strict=False))
        source = MappedBatchesSource(self.source, map_func, {**options, **kwargs})
        mapped = ShardedData(source, self.sharding, self.process_set)
        mapped._epochs = self._epochs
        return mapped

    def prefetch(self, buffer_size: int, name: str | None = None) -> ShardedData:
        """The data itself, which is read ahead in any case."""
        del buffer_size, name
        return self

    def set_epoch(self, epoch: int) -> None:
        """Go on with the order of the given epoch, as after resuming a training."""
        self.epoch = epoch

    def position(self, batches: int) -> dict[str, int]:
        """Where a loop over the data stands, for any number of ranks: plain data for `start_at`.

        Args:
            batches: how many batches of the current pass are done; 0 between two passes.
        """
        epoch, first = self._pass
        return {"epoch": epoch, "place": self.source.place_after(self.sharding, batches, first)}

    def start_at(self, position: dict[str, int]) -> None:
        """Let the next pass of a loop start where another one stood.

        Args:
            position: what `position` returned.
        """
        self.epoch, self._first = position["epoch"], position["place"]
        self._pass = (self.epoch, self._first)

    def next_epoch(self) -> int:
        """The number of the epoch that starts now."""
        epoch = self.epoch
        self.epoch += 1
        return epoch

    def dataset(
        self, sharding: Sharding, *, in_order: bool = False, first: int = 0
    ) -> tf.data.Dataset:
        """The rank's batches of an epoch; `ShardedBatch` where ranks may have unequal rows."""
        return self.source.dataset(sharding, self.next_epoch, in_order=in_order, first=first)

    def divided_anew(self, rank: int, size: int, ranks: ProcessSet) -> ShardedData:
        """The same data, in equal shares of other ranks; it goes on with the same epochs.

        Args:
            rank: which shard this rank reads.
            size: how many there are.
            ranks: those that compare what can be seen only once it is read.

        Raises:
            ValueError: it can't be divided so, or not without counting its rows at each step.
        """
        sharding = replace(self.sharding, rank=rank, size=size, shares=EQUAL)
        self.source.check(sharding)
        divided = ShardedData(self.source, sharding, ranks)
        divided._epochs = self._epochs
        if isinstance(divided.dataset(sharding).element_spec, CountedBatch):
            raise ValueError(
                "how many rows the other ranks have in a step of this data is known only when it "
                "is read: give hvd.shard data whose batches all have the same number of rows."
            )
        return divided

    def compare_first_batch(self) -> None:
        """Compare what can be seen only once it is read; all ranks call it after a step.

        Raises:
            RankMismatchError: on every rank: they have read different data.
        """
        if self.source.first_batch is not None and self.sharding.size > 1:
            self.source.first_batch.require_same(self.process_set)

    def _refuse_measured(self, how: str) -> None:
        """Refuse to read what `fit` has to measure.

        Raises:
            ValueError: on every rank.
        """
        if self.sharding.size > 1 and isinstance(self.sharding.shares, MeasuredShares):
            raise ValueError(
                f'weights="measured" is measured by fit, and this data is read {how}: give '
                "hvd.shard the numbers, as in weights=[2, 1, 1]. (train.weights of data that fit "
                "has trained on has them.)"
            )

    def sharding_for(self, devices: int) -> Sharding:
        """The sharding, for a process that trains on several local devices (MirroredStrategy)."""
        if self.sharding.batch_size is None or devices == 1:
            return self.sharding
        return replace(self.sharding, batch_size=self.sharding.batch_size * devices)


def _with_row_weights(*fields: Any) -> Any:
    """As `tf.data.Dataset.map` calls it: with the fields of a tuple."""
    return with_row_weights(fields[0] if len(fields) == 1 else fields)
