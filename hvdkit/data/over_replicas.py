"""A rank's batches, divided over its local devices as global batches are over ranks.

`tf.distribute` would divide them, too, but would average the devices' losses whatever their rows,
and leave a device without any where a batch is short.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import tensorflow as tf

from hvdkit.data.batch import CountedBatch, ShardedBatch, data_of
from hvdkit.data.rows import batch_rows, take_rows


def over_replicas(dataset: tf.data.Dataset, strategy: Any) -> Any:
    """A `tf.distribute.DistributedDataset` of a rank's batches, a part for each local replica.

    The parts are consecutive rows, the first ones a row longer where it has to be. A replica that
    has none gets a padding row, as a rank does.

    Args:
        dataset: batches, or `ShardedBatch`es.
        strategy: one of several local replicas.

    Raises:
        ValueError: rows are known only when they are read, see `CountedBatch`.
    """
    if isinstance(dataset.element_spec, CountedBatch):
        raise ValueError(
            "how many rows the other ranks have in a step of this data is known only when it is "
            "read, and MirroredStrategy reads ahead for the devices of each rank: give hvd.shard "
            'batches of equal rows, or use remainder="drop", or one rank for each device.'
        )
    parts = divided(dataset, strategy.num_replicas_in_sync)
    return strategy.distribute_datasets_from_function(lambda context: parts)


def divided(dataset: tf.data.Dataset, replicas: int) -> tf.data.Dataset:
    """Each batch as so many consecutive elements.

    Args:
        dataset: batches, or `ShardedBatch`es.
        replicas: how many.

    Returns:
        Batches where they always divide, else `ShardedBatch`es.
    """
    even = _always_divides(dataset.element_spec, replicas)

    def parts(*fields: Any) -> tf.data.Dataset:
        batch = fields[0] if len(fields) == 1 else fields
        each = [_part(batch, number, replicas, even) for number in range(replicas)]
        return reduce(tf.data.Dataset.concatenate, map(tf.data.Dataset.from_tensors, each))

    return dataset.flat_map(parts)


def parts_on_replicas(batch: Any, strategy: Any) -> list[Any]:
    """What each local replica gets of a batch that is read from `over_replicas`, in their order."""
    local = strategy.experimental_local_results

    def on(number: int) -> Any:
        return tf.nest.map_structure(lambda leaf: local(leaf)[number], batch)

    return [on(number) for number in range(strategy.num_replicas_in_sync)]


def _part(batch: Any, number: int, replicas: int, even: bool) -> Any:
    data = data_of(batch)
    rows = batch_rows(data)
    each, longer = rows // replicas, rows % replicas
    first = each * number + tf.minimum(longer, number)
    own = each + tf.cast(number < longer, tf.int64)
    if even:
        return take_rows(data, tf.range(first, first + own))
    scale = batch.scale if isinstance(batch, ShardedBatch) else tf.constant(1.0)
    share = tf.cast(replicas * own, tf.float32) / tf.cast(rows, tf.float32)
    # A padding row where it has none.
    picked = tf.cond(own > 0, lambda: tf.range(first, first + own), lambda: tf.range(own, own + 1))
    return ShardedBatch(take_rows(data, picked), tf.cast(scale, tf.float32) * share)


def _always_divides(spec: Any, replicas: int) -> bool:
    """Whether each batch has a number of rows that is known, and that divides."""
    if isinstance(spec, ShardedBatch):
        return False
    shape = next((leaf.shape for leaf in tf.nest.flatten(spec) if hasattr(leaf, "shape")), None)
    rows = shape[0] if shape is not None and shape.rank else None
    return rows is not None and rows % replicas == 0
