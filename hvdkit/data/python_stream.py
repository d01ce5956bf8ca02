"""A `tf.data.Dataset` of what Python yields, which is freed with the dataset.

TensorFlow keeps the functions that a dataset calls until its default graph is reset: with the
generator of `tf.data.Dataset.from_generator` all data stays in memory that it reads. So the only
generator that TensorFlow is given here is one function, and what it reads is looked up.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

_open: dict[int, Callable[[], Iterator[tuple[Any, ...]]]] = {}
_numbers = itertools.count()


def from_python(elements: Callable[[], Iterator[Any]], spec: Any) -> tf.data.Dataset:
    """The dataset of what a function yields each time it is called.

    Args:
        elements: called for each pass over the dataset. Its values may be tensors of any kind,
            and None.
        spec: the structure of an element: type specifications, and None.

    Returns:
        A dataset that keeps `elements` in memory as long as it, or a dataset or iterator that is
        made from it, is in memory.
    """
    leaves = tf.nest.flatten(spec, expand_composites=True)

    def flat() -> Iterator[tuple[Any, ...]]:
        for element in elements():
            values = tf.nest.flatten(element, expand_composites=True)
            yield tuple(value for value in values if value is not None)

    def packed(*values: tf.Tensor) -> Any:
        following = iter(values)
        filled = [None if leaf is None else next(following) for leaf in leaves]
        return tf.nest.pack_sequence_as(spec, filled, expand_composites=True)

    number = next(_numbers)
    _open[number] = flat
    signature = tuple(leaf for leaf in leaves if leaf is not None)
    dataset = tf.data.Dataset.from_generator(
        _elements_of, args=(np.int64(number),), output_signature=signature
    )
    weakref.finalize(dataset, _open.pop, number)
    return dataset.map(packed)


def _elements_of(number: np.int64) -> Iterator[tuple[Any, ...]]:
    return _open[int(number)]()
