"""Single values as `fit` takes them, made into arrays of numbers or text, and sparse tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.keras_internals import is_scipy_sparse

_TEXT = "USO"


def values_in(value: Any, use: Callable[[Any], Any]) -> Any:
    """Use each value of a structure.

    Args:
        value: a value, or dictionaries, lists and tuples of values. A list that holds no arrays
            but numbers or text is a value.
        use: called with each value: a NumPy array of numbers or text with at least one
            dimension, a ragged or sparse tensor, or a CSR matrix of SciPy.

    Returns:
        What `use` returned, in the same structure, with tuples for lists and None for None.

    Raises:
        TypeError: something is no such value.
    """
    if isinstance(value, dict):
        return {name: values_in(part, use) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        if value and all(map(_is_plain, value)):
            return use(_array(_array_of_list(value)))
        return tuple(values_in(part, use) for part in value)
    if value is None:
        return None
    if isinstance(value, (tf.RaggedTensor, tf.SparseTensor)):
        return use(value)
    return use(value.tocsr() if is_scipy_sparse(value) else _array(value))


def dtype_of(array: np.ndarray) -> tf.DType:
    """TensorFlow's type for an array of numbers or text."""
    return tf.string if array.dtype.kind in _TEXT else tf.as_dtype(array.dtype)


def with_floatx(dtype: Any) -> tf.DType:
    """Keras's `floatx` for any floating-point type, and other types as they are."""
    dtype = tf.as_dtype(dtype)
    return tf.as_dtype(keras.config.floatx()) if dtype.is_floating else dtype


def sparse_tensor(matrix: Any) -> tf.SparseTensor:
    """The sparse tensor of a CSR matrix of SciPy, its numbers as Keras's `floatx`."""
    ordered = matrix.sorted_indices().tocoo()
    indices = np.stack([ordered.row, ordered.col], axis=1).astype(np.int64)
    values = ordered.data.astype(with_floatx(ordered.dtype).as_numpy_dtype, copy=False)
    return tf.SparseTensor(indices, values, ordered.shape)


def _array(value: Any) -> np.ndarray:
    array = value if isinstance(value, np.ndarray) else _from_pandas(value)
    if array is None:
        array = np.asarray(value)
    if array.ndim == 0:
        raise TypeError(
            "hvd.shard takes arrays with one row for each sample, a tf.data.Dataset, or a "
            f"keras.utils.PyDataset, not {type(value).__name__}."
        )
    if array.dtype == object or array.dtype.kind == "T":  # NumPy's StringDType
        array = _without_objects(array.astype(object, copy=False), value)
    if array.dtype.kind not in "biufcV" + _TEXT:
        raise TypeError(f"hvd.shard takes arrays of numbers or of text, not of {array.dtype}.")
    return array


def _is_plain(value: Any) -> bool:
    """Whether a value, or all in a list, is a number or text."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return np.isscalar(value)


def _array_of_list(values: Any) -> np.ndarray:
    try:
        return np.asarray(values)
    except ValueError:
        raise TypeError(
            "the lists in the data have different lengths: give them as a ragged tensor, "
            "tf.ragged.constant(...), or pad them."
        ) from None


def _from_pandas(value: Any) -> np.ndarray | None:
    """The array of a DataFrame or Series of pandas: a Series is a column, as in `fit`."""
    if not (hasattr(value, "iloc") and hasattr(value, "to_numpy")):
        return None
    array: np.ndarray = value.to_numpy()
    return array[:, None] if array.ndim == 1 else array


def _without_objects(array: np.ndarray, value: Any) -> np.ndarray:
    """An array of Python objects as one of text or numbers."""
    found = _kinds(array.flat)
    if all(issubclass(kind, (str, bytes)) for kind in found):
        return array
    if all(issubclass(kind, (bool, int, float, np.number, np.bool_)) for kind in found):
        return np.asarray(array.tolist())
    names = ", ".join(sorted(kind.__name__ for kind in found))
    if hasattr(value, "columns"):
        raise TypeError(
            f"a DataFrame with columns of different types ({names}) is no array: give a "
            "dictionary of its columns, {name: frame[name] for name in frame}."
        )
    raise TypeError(
        f"an array of objects ({names}) can't be divided: hvd.shard takes arrays of numbers or "
        "of text. Lists of different lengths can be given as tf.ragged.constant(...)."
    )


def _kinds(values: Iterable[Any]) -> set[type]:
    return {type(value) for value in values}
