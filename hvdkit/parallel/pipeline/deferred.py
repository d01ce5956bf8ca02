"""Variables without values: a stage builds the whole model, and fills only its own part.

Keras makes variables without values while it is in a `StatelessScope`; they have a shape and a
type, so layers can be built and called symbolically. Keras's initializers carry their seeds, drawn
when they are made, so a variable gets the same value whenever it is initialized, and whether the
others are or not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend.common import global_state

_UNINITIALIZED = "uninitialized_variables"


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """While inside, variables that are made get no values.

    Raises:
        ValueError: a layer makes a variable from an array, not with an initializer.
    """
    others = global_state.get_global_attribute(_UNINITIALIZED)
    global_state.set_global_attribute(_UNINITIALIZED, [])
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    except ValueError as error:
        if "stateless scope" not in str(error):
            raise
        raise ValueError(
            "one of the model's layers makes a variable from an array, or changes one while it is "
            "built, so the model can't be built without values. Give PipelineModel the model "
            "itself, PipelineModel(build()), which needs memory for all of it for a moment."
        ) from error
    finally:
        # Keras would initialize those in its list when the next scope ends.
        global_state.set_global_attribute(_UNINITIALIZED, others)


def initialize(variables: Iterable[Any]) -> None:
    """Give variables that have none their initial values."""
    for variable in variables:
        if variable._value is None:
            variable._deferred_initialize()


def release(variables: Iterable[Any]) -> None:
    """Take the values of variables away, and so free their memory; shapes and types stay."""
    for variable in variables:
        variable._value = None
        variable._initializer = _nothing


def fill(variable: Any, value: np.ndarray) -> None:
    """Give a variable without a value this one."""
    variable._initialize(tf.constant(value, dtype=variable._dtype))
    variable._initializer = None


def is_released(variable: Any) -> bool:
    """Whether a variable has no value on this rank."""
    return variable._value is None


def _nothing(shape: tuple[int, ...], dtype: str) -> tf.Tensor:
    """What a variable without a value stands for while shapes are inferred."""
    return tf.zeros(shape, dtype)
