"""What users give to collectives, and what they get back.

What comes back is of the kind that went in: a tensor for a tensor, a `tf.Variable` or a
`keras.Variable`; an array for an array; a number for a number. Averages of integer arrays and
numbers are floats, as NumPy's are; those of integer tensors keep their type, as Horovod's do.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.engine import Average, Sum

_Restore = Callable[[tf.Tensor], Any]
_PYTHON_TYPES = {bool: tf.bool, int: tf.int64, float: tf.float64}


def tensor_keyword(function: Callable[..., Any]) -> Callable[..., Any]:
    """Also accept the first argument as `tensor=`, its name in `horovod.tensorflow`."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if "tensor" in kwargs:
            if args or "value" in kwargs:
                raise TypeError(f"{function.__name__}() got value and tensor, which are the same.")
            kwargs["value"] = kwargs.pop("tensor")
        return function(*args, **kwargs)

    return wrapper


def to_tensor(value: Any) -> tuple[tf.Tensor, _Restore]:
    """The value as a tensor, and how to turn a result into the kind of the value."""
    if isinstance(value, keras.Variable):
        return tf.convert_to_tensor(value.value), lambda tensor: tensor
    if tf.is_tensor(value) or isinstance(value, tf.Variable):
        return tf.convert_to_tensor(value), lambda tensor: tensor
    if isinstance(value, (bool, int, float)) and not isinstance(value, np.generic):
        dtype = next(_PYTHON_TYPES[cls] for cls in _PYTHON_TYPES if isinstance(value, cls))
        return tf.constant(value, dtype), _to_python
    array = np.asarray(value)
    if array.dtype.kind not in "fiubcV":
        raise TypeError(
            "collectives take tensors, variables, arrays and numbers, not "
            f"{type(value).__name__}; see hvd.broadcast_object and hvd.allgather_object."
        )
    return tf.constant(array), _to_numpy


def _to_numpy(tensor: tf.Tensor) -> Any:
    return tensor.numpy() if hasattr(tensor, "numpy") else tensor


def _to_python(tensor: tf.Tensor) -> Any:
    array = _to_numpy(tensor)
    return array.item() if isinstance(array, np.generic | np.ndarray) and array.ndim == 0 else array


def _is_tensor(value: Any) -> bool:
    return isinstance(value, (keras.Variable, tf.Variable)) or tf.is_tensor(value)


def for_op(tensor: tf.Tensor, value: Any, op: int) -> tf.Tensor:
    """An integer that is no tensor is averaged as a float; a bool is counted."""
    if _is_tensor(value):
        return tensor
    if op == Average and not tensor.dtype.is_floating:
        return tf.cast(tensor, tf.float64)
    if op == Sum and tensor.dtype == tf.bool:
        return tf.cast(tensor, tf.int64)
    return tensor
