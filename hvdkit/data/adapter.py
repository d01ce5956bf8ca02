"""What Keras reads sharded data through."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import tensorflow as tf

from hvdkit.data.batch import CountedBatch, ShardedBatch, data_of
from hvdkit.data.counting import as_sharded_batches
from hvdkit.data.measured import MeasuredShares
from hvdkit.data.over_replicas import over_replicas, parts_on_replicas
from hvdkit.data.sharded import ShardedData
from hvdkit.keras_internals import DataAdapter, make_class_weight_map_fn


class ShardedAdapter(DataAdapter):
    """What Keras reads `ShardedData` through.

    Args:
        data: the rank's data.
        class_weight: as in `fit`.
        strategy: of the model that reads it; its local devices share a batch.
        in_order: do not shuffle.
        like: data of the same ranks whose measured shares are taken, if these are measured, too.

    Raises:
        ValueError: it can't be divided over several local devices.
    """

    def __init__(
        self,
        data: ShardedData,
        class_weight: dict[int, float] | None = None,
        strategy: Any = None,
        in_order: bool = False,
        like: ShardedData | None = None,
    ) -> None:
        devices = 1 if strategy is None else strategy.num_replicas_in_sync
        self.data = data
        self.sharding = data.sharding_for(devices)
        if like is not None and isinstance(self.sharding.shares, MeasuredShares):
            shares = like.sharding.shares
            if isinstance(shares, MeasuredShares) and like.process_set is data.process_set:
                self.sharding = replace(self.sharding, shares=shares)
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


def _class_weights(class_weight: dict[int, float], tag: Any) -> Any:
    weigh = make_class_weight_map_fn(class_weight)
    return weigh if tag is None else lambda batch: tag(weigh(*batch[0]), batch[1])
