"""Variables without values: a stage builds the unsplit model, and fills only its own variables.

Keras makes variables without values while it is in a `StatelessScope`; they have a shape and a
type, so layers can be built and called symbolically. Keras's initializers carry their seeds, drawn
when they are made, so a variable gets the same value whenever it is initialized, and whether the
others are or not. What the building itself gives to variables, such as the weights of a file, is
kept beside them (`GivenValues`), until it is known which of them this rank holds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.keras_internals import (
    STATELESS_SCOPE,
    UNINITIALIZED_VARIABLES,
    is_of_keras,
    replaced_global_attribute,
)
from hvdkit.parallel.pipeline.given_values import GivenValues


@contextlib.contextmanager
def deferred() -> Iterator[GivenValues]:
    """While inside, variables that are made get no values, and those that are assigned are kept.

    Variables that are made from arrays have these at once. They, and variables that were there
    before, have what was assigned to them when it ends.

    Yields:
        What was given to variables.

    Raises:
        ValueError: a `tf.function` changes a variable.
    """
    scope = _Recording()
    with (
        # Keras would initialize those in its list when the next scope ends.
        replaced_global_attribute(UNINITIALIZED_VARIABLES, _Made(scope)),
        scope,
        _arrays_at_once(),
        _uncompiled(),
    ):
        yield scope.given
    for variable in scope.given.assigned():
        if variable._value is not None:
            variable.assign(scope.given.of(variable))


def release(variables: Iterable[Any]) -> None:
    """Take the values of variables away, and so free their memory; shapes and types stay."""
    for variable in variables:
        variable._value = None
        variable._initializer = _nothing


def fill(variable: Any, value: np.ndarray) -> None:
    """Give a variable without a value this one."""
    with tf.init_scope():
        variable._initialize(tf.constant(value, dtype=variable._dtype))
    variable._initializer = None


def initialize(variables: Iterable[Any], given: GivenValues) -> None:
    """Give variables that have none the values that the building gave them, or their initial ones.

    Args:
        variables: of a model that was built while `deferred`.
        given: what `deferred` yielded.
    """
    for variable in variables:
        if variable._value is not None:
            continue
        if variable in given:
            fill(variable, given.of(variable))
        else:
            variable._deferred_initialize()


def is_released(variable: Any) -> bool:
    """Whether a variable has no value on this rank."""
    return variable._value is None


class _Recording(keras.StatelessScope):
    """Keeps what is assigned to variables, and lets it be read.

    Attributes:
        given: what was assigned.
    """

    def __init__(self) -> None:
        super().__init__(initialize_variables=False)
        self.given = GivenValues()

    def add_update(self, update: tuple[Any, Any]) -> None:
        """Keras calls this for each assignment."""
        variable, value = update
        if tf.is_symbolic_tensor(value):
            raise ValueError(
                f"a tf.function changes the variable {variable.path!r} while the model is built, "
                "as training does, so the model can't be built without values. Give PipelineModel "
                "the model itself, PipelineModel(build()), which needs memory for all of it."
            )
        self.given.put(variable, np.asarray(value))

    def get_current_value(self, variable: Any) -> Any:
        """Keras calls this when a variable is read; None for one that has its value as always."""
        if variable not in self.given:
            if variable._value is not None:
                return None
            self.draw(variable)
        return tf.constant(self.given.of(variable), dtype=variable._dtype)

    def draw(self, variable: Any) -> None:
        """Let a variable that has no value begin with what its initializer gives now."""
        with _in_scope(self), tf.init_scope():
            value = variable._initializer(variable._shape, dtype=variable._dtype)
            self.given.put(variable, np.asarray(tf.cast(value, variable._dtype)))
        variable._initializer = _nothing


class _Made(list[Any]):
    """Keras's list of variables that have no values yet.

    What an initializer of somebody else's gives may depend on when it is called, so it is called
    when the variable is made, as without a pipeline.
    """

    def __init__(self, scope: _Recording) -> None:
        super().__init__()
        self._scope = scope

    def append(self, variable: Any) -> None:
        """Keras calls this for each variable that is made."""
        super().append(variable)
        self._scope.given.made(variable)
        if not _is_repeatable(variable._initializer):
            self._scope.draw(variable)


@contextlib.contextmanager
def _arrays_at_once() -> Iterator[None]:
    """While inside, variables can be made from arrays, which Keras refuses in such a scope."""
    kind = keras.Variable
    original = kind.__init__

    def make(variable: Any, initializer: Any, *args: Any, **options: Any) -> None:
        if callable(initializer) or isinstance(initializer, str):
            original(variable, initializer, *args, **options)
        else:
            with _in_scope(None):
                original(variable, initializer, *args, **options)

    with _replaced(kind, "__init__", make):
        yield


@contextlib.contextmanager
def _uncompiled() -> Iterator[None]:
    """While inside, models that are loaded are not compiled: their optimizers need values."""
    with _replaced(keras.Model, "compile_from_config", lambda model, config: None):
        yield


@contextlib.contextmanager
def _replaced(owner: type, name: str, function: Any) -> Iterator[None]:
    """While inside, a class has another method."""
    own = vars(owner).get(name)
    setattr(owner, name, function)
    try:
        yield
    finally:
        if own is None:  # it is inherited
            delattr(owner, name)
        else:
            setattr(owner, name, own)


def _in_scope(scope: _Recording | None) -> AbstractContextManager[None]:
    """Exchange Keras's scope."""
    return replaced_global_attribute(STATELESS_SCOPE, scope)


def _is_repeatable(initializer: Any) -> bool:
    """Whether an initializer gives the same whenever it is called."""
    return is_of_keras(type(initializer), "initializers") and not isinstance(
        getattr(initializer, "seed", None), keras.random.SeedGenerator
    )


def _nothing(shape: tuple[int, ...], dtype: str) -> tf.Tensor:
    """What a variable without a value stands for while shapes are inferred."""
    return tf.zeros(shape, dtype)
