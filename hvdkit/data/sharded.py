"""The data of one rank, for `fit`, `evaluate`, `predict`, and loops of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.data.batch import ShardedBatch, with_row_weights
from hvdkit.data.mapped import LazyDataset, MappedSource
from hvdkit.data.source import Part, Source


class ShardedData(LazyDataset):
    """One rank's part of the data, made by `hvd.shard`.

    Give it to `fit`, `evaluate` or `predict` in the place of x, or to `fit` as
    `validation_data`. Iterating over it gives the batches of the next epoch as tensors: with
    `remainder="pad"` with a weight of each row in the last place, (x, y, weights).

    It is a `tf.data.Dataset` of these batches for whatever asks for one. `map` gives sharded data
    again, so models with a `fit` of their own that maps a function over a dataset, as all tasks of
    KerasHub do, take it.

    Attributes:
        source: the whole data.
        part: which part of it is this rank's.
    """

    def __init__(self, source: Source, part: Part) -> None:
        super().__init__()
        self.source = source
        self.part = part
        self._epochs = [0]  # what `map` has made from this goes on with it
        self._first = 0
        self._pass = (0, 0)

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
        count = self.source.num_batches(self.part)
        if count is None:
            raise TypeError("the length of this data is not known before it has been read.")
        return count

    def __iter__(self) -> Iterator[Any]:
        first, self._first = self._first, 0
        self._pass = (self.epoch, first)
        self.source.on_epoch_begin()
        for batch in self.dataset(self.part, first=first):
            yield batch if self.part.drop_remainder else with_row_weights(batch)
        self.source.on_epoch_end()
        self._pass = (self.epoch, 0)

    def _make(self) -> tf.data.Dataset:
        dataset = self.dataset(self.part)
        return dataset if self.part.drop_remainder else dataset.map(with_row_weights)

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
        mapped = ShardedData(MappedSource(self.source, map_func, {**options, **kwargs}), self.part)
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
        return {"epoch": epoch, "place": self.source.place_after(self.part, batches, first)}

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

    def dataset(self, part: Part, *, in_order: bool = False, first: int = 0) -> tf.data.Dataset:
        """The rank's batches of an epoch; `ShardedBatch` where ranks may have unequal rows."""
        return self.source.dataset(part, self.next_epoch, in_order=in_order, first=first)

    def part_for(self, local_devices: int) -> Part:
        """The part, for a process that trains on several local devices (MirroredStrategy)."""
        if self.part.batch_size is None or local_devices == 1:
            return self.part
        return replace(self.part, batch_size=self.part.batch_size * local_devices)


class ShardedAdapter(keras.src.trainers.data_adapters.data_adapter.DataAdapter):
    """What Keras reads `ShardedData` through.

    Args:
        data: the rank's data.
        class_weight: as in `fit`.
        local_devices: devices of this process that share a batch.
        in_order: do not shuffle.
        only_real: leave padding out and give plain batches, as `predict` needs.
    """

    def __init__(
        self,
        data: ShardedData,
        class_weight: dict[int, float] | None = None,
        local_devices: int = 1,
        in_order: bool = False,
        only_real: bool = False,
    ) -> None:
        self.data = data
        self.part = data.part_for(local_devices)
        self._in_order = in_order
        self._only_real = only_real
        self._class_weight = class_weight
        self._dataset = self.dataset_from(0)

    def dataset_from(self, first: int) -> tf.data.Dataset:
        """The batches of an epoch from a place on, see `Source.place_after`."""
        dataset = self.data.dataset(self.part, in_order=self._in_order, first=first)
        tagged = isinstance(dataset.element_spec, ShardedBatch)
        if tagged and self._only_real:
            dataset = dataset.filter(_is_real).map(_rows)
            tagged = False
        if self._class_weight is not None:
            dataset = dataset.map(_class_weights(self._class_weight, tagged))
        return dataset

    def get_tf_dataset(self) -> tf.data.Dataset:
        """The batches as Keras's training step takes them."""
        return self._dataset

    def get_numpy_iterator(self) -> Iterator[Any]:
        """The batches as NumPy arrays."""
        yield from self._dataset.as_numpy_iterator()

    @property
    def num_batches(self) -> int | None:
        """Batches of an epoch; None where it is not known."""
        if self._only_real and self.data.source.may_be_uneven(self.part):
            return None
        return self.data.source.num_batches(self.part)

    @property
    def batch_size(self) -> int | None:
        """Rows of a full batch; None where the data is batched already."""
        return self.part.batch_size

    @property
    def has_partial_batch(self) -> bool | None:
        """Not known."""
        return None

    @property
    def partial_batch_size(self) -> int | None:
        """Not known."""
        return None

    def on_epoch_begin(self) -> None:
        """Called by Keras before an epoch."""
        self.data.source.on_epoch_begin()

    def on_epoch_end(self) -> None:
        """Called by Keras after an epoch."""
        self.data.source.on_epoch_end()

    def positions(self, rows: int) -> np.ndarray:
        """Where the first `rows` rows that this rank reads in order stand in the whole data."""
        return self.data.source.positions(self.part, rows)


def _is_real(batch: ShardedBatch) -> tf.Tensor:
    return batch.scale > 0


def _rows(batch: ShardedBatch) -> Any:
    return batch.data


def _class_weights(class_weight: dict[int, float], tagged: bool) -> Any:
    from keras.src.trainers.data_adapters.tf_dataset_adapter import make_class_weight_map_fn

    weigh = make_class_weight_map_fn(class_weight)
    if not tagged:
        return weigh

    def weigh_tagged(batch: ShardedBatch) -> ShardedBatch:
        return ShardedBatch(weigh(*batch.data), batch.scale)

    return weigh_tagged
