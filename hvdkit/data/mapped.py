"""Sharded data whose batches go through a function, and sharded data as a `tf.data.Dataset`.

Classes with a `fit` of their own, such as KerasHub's tasks, map their preprocessing over what they
get, if it is a `tf.data.Dataset`, and hand the result to Keras's `fit`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from hvdkit.data.batch import ShardedBatch
from hvdkit.data.source import Part, Source, pipeline_options


class MappedSource:
    """A source whose batches go through a function that keeps their rows; the rest is the source's.

    Args:
        source: the whole data.
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

    def dataset(self, part: Part, *args: Any, **kwargs: Any) -> tf.data.Dataset:
        """See `Source.dataset`."""
        dataset = self._source.dataset(part, *args, **kwargs)
        if isinstance(dataset.element_spec, ShardedBatch):
            mapped = dataset.map(self._tagged, **self._options)
        else:
            mapped = dataset.map(self._function, **self._options)
        return pipeline_options(mapped)

    def _tagged(self, batch: ShardedBatch) -> ShardedBatch:
        given = batch.data if type(batch.data) is tuple else (batch.data,)
        return ShardedBatch(self._function(*given), batch.scale)


class LazyDataset(tf.data.Dataset):
    """A `tf.data.Dataset` that is made when one of the dataset's own methods asks for it."""

    def __init__(self) -> None:
        # That of tf.data.Dataset is called by `_made`.
        pass

    def _make(self) -> tf.data.Dataset:
        """The dataset. To be given by subclasses."""
        raise NotImplementedError

    def _made(self) -> tf.data.Dataset:
        if "_dataset" not in vars(self):
            self._dataset = self._make()
            super().__init__(self._dataset._variant_tensor)
        return self._dataset

    def __getattr__(self, name: str) -> Any:
        # TensorFlow's attributes, such as _variant_tensor_attr, are there once it is made.
        inner = name.startswith("_") and not name.startswith("__")
        if not inner or "_dataset" in vars(self):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self._made()
        return getattr(self, name)

    def _inputs(self) -> list[tf.data.Dataset]:
        return [self._made()]

    @property
    def element_spec(self) -> Any:
        """Shapes and types of a batch."""
        return self._made().element_spec
