"""Batches that are made in Python, as `keras.utils.PyDataset` makes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from hvdkit.data.rows import batch_rows, take_rows
from hvdkit.data.values import dtype_of, sparse_tensor, values_in
from hvdkit.keras_internals import is_scipy_sparse


def batch_of(batch: Any) -> Any:
    """A batch of arrays, ragged and sparse tensors, and None.

    Args:
        batch: x, or a tuple or list (x,), (x, y) or (x, y, sample_weight), of what `fit` takes.
    """
    if isinstance(batch, (list, tuple)):
        return tuple(values_in(part, _value) for part in batch)
    return values_in(batch, _value)


def spec_of(batch: Any) -> Any:
    """The types and shapes of a batch, with any number of rows; None for None."""
    return tf.nest.map_structure(_spec, batch)


def common_spec(specs: list[Any]) -> Any:
    """The specification that batches have in common: what differs in a dimension is unknown.

    Raises:
        ValueError: the batches have different structures, or numbers of dimensions.
    """
    for other in specs[1:]:
        tf.nest.assert_same_structure(specs[0], other)
    return tf.nest.map_structure(_common, *specs)


def number_of_rows(batch: Any) -> int:
    """How many rows a batch has."""
    first = next(value for value in tf.nest.flatten(batch) if value is not None)
    return len(first) if isinstance(first, np.ndarray) else int(batch_rows(first))


def first_row(batch: Any) -> Any:
    """A batch of the first row only."""
    return tf.nest.map_structure(
        lambda v: v[:1] if isinstance(v, np.ndarray) else take_rows(v, tf.range(1)), batch
    )


def _value(value: Any) -> Any:
    return sparse_tensor(value) if is_scipy_sparse(value) else value


def _spec(value: Any) -> Any:
    if value is None:
        return None
    shape = (None, *value.shape[1:])
    if isinstance(value, tf.RaggedTensor):
        return tf.RaggedTensorSpec(shape, value.dtype, value.ragged_rank, value.row_splits.dtype)
    if isinstance(value, tf.SparseTensor):
        return tf.SparseTensorSpec(shape, value.dtype)
    return tf.TensorSpec(shape, dtype_of(value))


def _common(first: Any, *others: Any) -> Any:
    if first is None:
        return None
    shape = first.shape
    for other in others:
        if other.shape.rank != shape.rank:
            raise ValueError(
                "the batches of the PyDataset have different numbers of dimensions: "
                f"{tuple(shape)} and {tuple(other.shape)}."
            )
        shape = tf.TensorShape(
            mine if mine == theirs else None
            for mine, theirs in zip(shape, other.shape, strict=True)
        )
    return _with_shape(first, shape)


def _with_shape(spec: Any, shape: tf.TensorShape) -> Any:
    if isinstance(spec, tf.RaggedTensorSpec):
        return tf.RaggedTensorSpec(shape, spec.dtype, spec.ragged_rank, spec.row_splits_dtype)
    return type(spec)(shape, spec.dtype)
