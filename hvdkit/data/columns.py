"""What `fit` takes as arrays, as columns: values with a row for each sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from hvdkit.data.rows import take_rows
from hvdkit.data.values import dtype_of, sparse_tensor, values_in, with_floatx
from hvdkit.descriptions import dtype_and_shape
from hvdkit.keras_internals import is_scipy_sparse


class Column(Protocol):
    """One array."""

    @property
    def rows(self) -> int:
        """Number of samples."""
        ...

    @property
    def identity(self) -> str:
        """Type and shape, in words."""
        ...

    @property
    def spec(self) -> tf.TypeSpec:
        """The type of some rows."""
        ...

    def take(self, rows: np.ndarray) -> Any:
        """The rows with these numbers, as `spec` says."""
        ...


@dataclass(frozen=True)
class DenseColumn:
    """A NumPy array, in memory or memory-mapped.

    Its floating-point numbers become Keras's `floatx`, as in `fit`, when rows are taken.
    """

    array: np.ndarray

    @property
    def rows(self) -> int:
        """See `Column.rows`."""
        return len(self.array)

    @property
    def identity(self) -> str:
        """See `Column.identity`."""
        return dtype_and_shape(dtype_of(self.array), self.array.shape)

    @property
    def spec(self) -> tf.TensorSpec:
        """See `Column.spec`."""
        return tf.TensorSpec((None, *self.array.shape[1:]), self._dtype)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """See `Column.take`."""
        picked: np.ndarray = self.array[rows]
        text = self._dtype == tf.string
        return picked if text else picked.astype(self._dtype.as_numpy_dtype, copy=False)

    @property
    def _dtype(self) -> tf.DType:
        return with_floatx(dtype_of(self.array))


@dataclass(frozen=True)
class TensorColumn:
    """A ragged or a sparse tensor."""

    tensor: tf.RaggedTensor | tf.SparseTensor

    @property
    def rows(self) -> int:
        """See `Column.rows`."""
        return int(self.tensor.shape[0])

    @property
    def identity(self) -> str:
        """See `Column.identity`."""
        what = dtype_and_shape(self.tensor.dtype, self.tensor.shape)
        return f"{type(self.tensor).__name__} {what}"

    @property
    def spec(self) -> tf.TypeSpec:
        """See `Column.spec`."""
        shape = (None, *self.tensor.shape[1:])
        if isinstance(self.tensor, tf.SparseTensor):
            return tf.SparseTensorSpec(shape, self.tensor.dtype)
        return tf.RaggedTensorSpec(
            shape, self.tensor.dtype, self.tensor.ragged_rank, self.tensor.row_splits.dtype
        )

    def take(self, rows: np.ndarray) -> Any:
        """See `Column.take`."""
        with tf.device("CPU"):
            return take_rows(self.tensor, tf.constant(rows, tf.int64))


@dataclass(frozen=True)
class ScipyColumn:
    """A sparse matrix of SciPy."""

    matrix: Any

    @property
    def rows(self) -> int:
        """See `Column.rows`."""
        return int(self.matrix.shape[0])

    @property
    def identity(self) -> str:
        """See `Column.identity`."""
        return f"sparse {dtype_and_shape(self.matrix.dtype, self.matrix.shape)}"

    @property
    def spec(self) -> tf.SparseTensorSpec:
        """See `Column.spec`."""
        return tf.SparseTensorSpec((None, self.matrix.shape[1]), with_floatx(self.matrix.dtype))

    def take(self, rows: np.ndarray) -> tf.SparseTensor:
        """See `Column.take`."""
        return sparse_tensor(self.matrix[rows])


def columns_of(data: Any) -> Any:
    """The arrays in what `fit` takes, as columns.

    Args:
        data: an array, or a tuple (x,), (x, y) or (x, y, sample_weight) of arrays or structures
            of arrays. A list is a structure of several inputs, unless it holds no arrays but
            numbers or text: then it is an array.

    Returns:
        The same structure, with tuples for lists, None for None, and a `Column` for each array.

    Raises:
        TypeError: something is no array.
    """
    if isinstance(data, tuple):
        parts = tuple(values_in(part, _column) for part in data)
        while len(parts) > 1 and parts[-1] is None:
            parts = parts[:-1]
        return (*parts[:2], _for_each_output(parts[1], parts[2])) if len(parts) == 3 else parts
    columns = values_in(data, _column)
    # As in `fit`: several inputs are x, not (x, y).
    return (columns,) if isinstance(columns, tuple) else columns


def flat_columns(columns: Any) -> list[Column]:
    """The columns of a structure, without None."""
    return [column for column in tf.nest.flatten(columns) if column is not None]


def _for_each_output(y: Any, weights: Any) -> Any:
    """One weight for each row counts for all outputs, as in `fit`."""
    if isinstance(y, (dict, tuple)) and not isinstance(weights, (dict, tuple)):
        return tf.nest.map_structure(lambda _: weights, y)
    return weights


def _column(value: Any) -> Column:
    if isinstance(value, (tf.RaggedTensor, tf.SparseTensor)):
        return TensorColumn(tf.cast(value, with_floatx(value.dtype)))
    return ScipyColumn(value) if is_scipy_sparse(value) else DenseColumn(value)
