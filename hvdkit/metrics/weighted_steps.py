"""Training and test steps that take what `hvd.shard` reads, and weigh it by its rows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from hvdkit.data.batch import ShardedBatch
from hvdkit.data.batch_rows import batch_rows
from hvdkit.data.batch_scale import BatchScale, batch_scale
from hvdkit.engine.local_replicas import local_replicas, summed_over_replicas
from hvdkit.layers.sync_batch_normalization import SyncBatchNormalization
from hvdkit.metrics.kinds import metrics_of, variables_that_count_batches
from hvdkit.metrics.rows import TRAINING, new_rows, rows_in

Step = Callable[[Any], Any]


def with_sharded_batches(model: keras.Model, step: Step, kind: str) -> Step:
    """Let a step take a `ShardedBatch`: weigh its loss, and keep padding out of the metrics.

    Args:
        model: the model whose step it is.
        step: Keras's (or the model's own) `train_step` or `test_step`.
        kind: which of the two, see `hvdkit.metrics.rows`.

    Returns:
        A step that also takes plain batches, and that counts rows.
    """
    rows = new_rows(model, kind)

    def step_on(batch: Any) -> Any:
        if rows is not None and local_replicas() > 1 and not isinstance(batch, ShardedBatch):
            needs_rows = kind == TRAINING and _has_statistics_of_batches(model)
            batch = ShardedBatch(batch, share_of_replica(batch, needs_rows))
        if not isinstance(batch, ShardedBatch):
            if rows is None:
                return step(batch)
            with batch_rows(rows.count(batch)):
                return step(batch)
        with batch_scale(batch.scale) as scale, _weighed_metrics(model, scale):
            if rows is not None:
                rows.count(batch.data, scale.is_real)
            return step(batch.data)

    return step_on


def share_of_replica(batch: Any, needs_rows: bool = False) -> tf.Tensor:
    """What the mean over this local replica's rows counts in the mean of all of them (float32).

    `tf.distribute` divides a batch as it is, and some replicas may have fewer rows, or none.

    Args:
        batch: what this replica has of a plain batch.
        needs_rows: raise `tf.errors.InvalidArgumentError` where it has none.
    """
    own = tf.cast(rows_in(batch), tf.float32)
    enough = tf.debugging.Assert(
        own > 0 if needs_rows else True,
        [
            "hvdkit: a local device has no row of a batch, so BatchNormalization would make NaN of "
            "it: divide the data with hvd.shard, or leave out batches of fewer rows than devices."
        ],
    )
    with tf.control_dependencies([enough] if enough is not None else []):
        [whole] = summed_over_replicas([tf.identity(own)])
    return local_replicas() * own / whole


def _has_statistics_of_batches(model: keras.Model) -> bool:
    normalizing = keras.layers.BatchNormalization
    return any(
        isinstance(layer, normalizing) and not isinstance(layer, SyncBatchNormalization)
        for layer in model._flatten_layers()
    )


@contextlib.contextmanager
def _weighed_metrics(model: keras.Model, scale: BatchScale) -> Iterator[None]:
    """Put the metrics back as they were if the batch is padding.

    A mean that counts batches, such as a tracker of the loss, counts this one as its scale; here
    only where it could not do so itself, in a function inside the step.
    """
    before = {id(v): tf.identity(v.value) for m in metrics_of(model) for v in m.variables}
    yield
    for metric in metrics_of(model):
        by_batch = variables_that_count_batches(metric)
        for variable in metric.variables:
            # A metric that is built in its first step starts from zeros.
            new, old = variable.value, before.get(id(variable), tf.zeros_like(variable.value))
            if id(variable) in by_batch:
                new = old + tf.cast(scale.value, old.dtype) * (new - old)
            # What comes of padding may be NaN, so a weight of zero is not enough.
            variable.assign(tf.where(scale.is_real, new, old))
