"""The data of one rank, for `fit`, `evaluate`, `predict`, and loops of one's own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import tensorflow as tf

from hvdkit.data.batch import CountedBatch, ShardedBatch, data_of, with_row_weights
from hvdkit.data.counting import as_sharded_batches
from hvdkit.data.lazy import LazyDataset
from hvdkit.data.mapped_batches import MappedBatchesSource
from hvdkit.data.over_replicas import over_replicas, parts_on_replicas
from hvdkit.data.source import Sharding, Source
from hvdkit.engine import ProcessSet
from hvdkit.keras_internals import DataAdapter, make_class_weight_map_fn


class ShardedData(LazyDataset):
    """One rank's shard of the data, made by `hvd.shard`.

    Give it to `fit`, `evaluate` or `predict` in the place of x, or to `fit` as
    `validation_data`. Iterating over it gives the batches of the next epoch as tensors: with
    `remainder="pad"` with a weight of each row in the last place, (x, y, weights).

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
        return dataset if self.sharding.drop_remainder else dataset.map(_with_row_weights)

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
        """The same data, divided over another number of ranks; it goes on with the same epochs.

        Args:
            rank: which shard this rank reads.
            size: how many there are.
            ranks: those that compare what can be seen only once it is read.

        Raises:
            ValueError: it can't be divided so, or not without counting its rows at each step.
        """
        sharding = replace(self.sharding, rank=rank, size=size)
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

    def sharding_for(self, devices: int) -> Sharding:
        """The sharding, for a process that trains on several local devices (MirroredStrategy)."""
        if self.sharding.batch_size is None or devices == 1:
            return self.sharding
        return replace(self.sharding, batch_size=self.sharding.batch_size * devices)


class ShardedAdapter(DataAdapter):
    """What Keras reads `ShardedData` through.

    Args:
        data: the rank's data.
        class_weight: as in `fit`.
        strategy: of the model that reads it; its local devices share a batch.
        in_order: do not shuffle.

    Raises:
        ValueError: it can't be divided over several local devices.
    """

    def __init__(
        self,
        data: ShardedData,
        class_weight: dict[int, float] | None = None,
        strategy: Any = None,
        in_order: bool = False,
    ) -> None:
        devices = 1 if strategy is None else strategy.num_replicas_in_sync
        self.data = data
        self.sharding = data.sharding_for(devices)
        self._in_order = in_order
        self._class_weight = class_weight
        self._strategy = strategy if devices > 1 and self.sharding.size > 1 else None
        self._dataset = self.dataset_from(0)
        self._read = self.read_by_keras(self._dataset)

    def dataset_from(self, first: int) -> tf.data.Dataset:
        """The batches of an epoch from a place on, see `Source.place_after`."""
        dataset = self.data.dataset(self.sharding, in_order=self._in_order, first=first)
        if self._class_weight is not None:
            spec = dataset.element_spec
            tag = type(spec) if isinstance(spec, (ShardedBatch, CountedBatch)) else None
            dataset = dataset.map(_class_weights(self._class_weight, tag))
        return dataset

    def read_by_keras(self, dataset: tf.data.Dataset) -> Any:
        """Batches as Keras reads them: on several local devices each gets a part."""
        return dataset if self._strategy is None else over_replicas(dataset, self._strategy)

    def parts_on_replicas(self, batch: Any) -> list[Any]:
        """What each local device gets of a batch that Keras has read; one has all of it."""
        return [batch] if self._strategy is None else parts_on_replicas(batch, self._strategy)

    @property
    def batch_spec(self) -> Any:
        """The type specification of a batch of this rank, as `fit` takes it."""
        return data_of(self._dataset.element_spec)

    def get_tf_dataset(self) -> Any:
        """The batches as Keras's training step takes them."""
        return self._read

    def get_numpy_iterator(self) -> Iterator[Any]:
        """The batches as NumPy arrays."""
        yield from self._dataset.as_numpy_iterator()

    @property
    def num_batches(self) -> int | None:
        """Batches of an epoch; None where it is not known."""
        return self.data.source.num_batches(self.sharding)

    @property
    def batch_size(self) -> int | None:
        """Rows of a full batch; None where the data is batched already."""
        return self.sharding.batch_size

    @property
    def has_partial_batch(self) -> bool | None:
        """Not known."""
        return None

    @property
    def partial_batch_size(self) -> int | None:
        """Not known."""
        return None

    def counted(self, steps: Iterator[Any]) -> Iterator[Any]:
        """Keras's steps of an epoch, with `ShardedBatch` in the place of `CountedBatch`."""
        if not isinstance(self._dataset.element_spec, CountedBatch):
            return steps
        process_set = self.data.process_set
        return (
            (first, last, as_sharded_batches(batches, process_set))
            for first, last, batches in steps
        )

    def on_epoch_begin(self) -> None:
        """Called by Keras before an epoch."""
        self.data.source.on_epoch_begin()

    def on_epoch_end(self) -> None:
        """Called by Keras after an epoch."""
        self.data.source.on_epoch_end()


def _with_row_weights(*fields: Any) -> Any:
    """As `tf.data.Dataset.map` calls it: with the fields of a tuple."""
    return with_row_weights(fields[0] if len(fields) == 1 else fields)


def _class_weights(class_weight: dict[int, float], tag: Any) -> Any:
    weigh = make_class_weight_map_fn(class_weight)
    return weigh if tag is None else lambda batch: tag(weigh(*batch[0]), batch[1])
