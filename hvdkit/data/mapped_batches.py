"""Sharded data whose batches go through a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from hvdkit.data.batch import CountedBatch, ShardedBatch
from hvdkit.data.source import Sharding, Source, pipeline_options


class MappedBatchesSource:
    """A source whose batches go through a function that keeps their rows; the rest is the source's.

    Args:
        source: the unsharded data.
        function: as of `tf.data.Dataset.map`, applied to a batch: x, or x and y (and weights).
        options: more arguments of `tf.data.Dataset.map`.
    """

    def __init__(
        self, source: Source, function: Callable[..., Any], options: dict[str, Any]
    ) -> None:
        self._source = source
        self._function = function
        self._options = options

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def dataset(self, sharding: Sharding, *args: Any, **kwargs: Any) -> tf.data.Dataset:
        """See `Source.dataset`."""
        dataset = self._source.dataset(sharding, *args, **kwargs)
        spec = dataset.element_spec
        tagged = isinstance(spec, (ShardedBatch, CountedBatch))
        mapped = dataset.map(self._on_tagged if tagged else self._function, **self._options)
        return pipeline_options(mapped)

    def _on_tagged(self, batch: ShardedBatch | CountedBatch) -> ShardedBatch | CountedBatch:
        data, tag = batch
        given = data if type(data) is tuple else (data,)
        return type(batch)(self._function(*given), tag)
