"""What identifies and describes a variable, whether it is Keras's or TensorFlow's."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from hvdkit.descriptions import dtype_and_shape


def raw(variable: Any) -> Any:
    """The `tf.Variable` behind a `keras.Variable`; a `tf.Variable` itself."""
    return variable.value if isinstance(variable, keras.Variable) else variable


def variable_key(variable: object) -> int:
    """What identifies a variable, whether it comes as `keras.Variable` or as `tf.Variable`."""
    inner = getattr(variable, "_value", None)
    if inner is not None and hasattr(inner, "_unique_id"):
        return id(inner)
    return id(variable)


def path_of(variable: Any) -> str:
    """A variable's name, with those of the layers that it is in where it is Keras's."""
    return str(getattr(variable, "path", variable.name))


def elements_of(variable: Any, start: int, stop: int) -> tf.Tensor:
    """The elements of a variable from one to another, in rows as in memory, flat."""
    return tf.reshape(tf.convert_to_tensor(raw(variable)), [-1])[start:stop]


def constrain(variable: Any) -> None:
    """Let a variable's constraint hold, as Keras does after an update."""
    if getattr(variable, "constraint", None) is not None:
        variable.assign(variable.constraint(variable))


def described(variable: Any) -> str:
    """The type and the shape of a variable, in words."""
    return dtype_and_shape(variable.dtype, variable.shape)


def can_be_sent(variable: Any) -> bool:
    """Whether a variable holds numbers."""
    dtype = tf.as_dtype(variable.dtype)
    return bool(dtype.is_floating or dtype.is_integer or dtype.is_bool or dtype.is_complex)


def is_seed_state(variable: Any) -> bool:
    """Whether a variable is the state of a `keras.random.SeedGenerator`."""
    return getattr(variable, "name", "") == "seed_generator_state"
