"""A copy of a model: made again from configurations, with everything that these do not hold."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.graph.layer_sequence import layer_sequence_of
from hvdkit.graph.rebuild import ends_like, replay, undrawn
from hvdkit.keras_internals import (
    Functional,
    SafeModeScope,
    functional_like_constructor,
    is_of_keras,
)
from hvdkit.state import outside_variables

_INSTEAD = "Leave copy=True out: split then uses the layers of the model itself."
_PLAIN = (bool, int, float, complex, str, bytes, type(None), np.generic, np.ndarray, list, tuple)

_BOOKKEEPING = ("_auto_config", "_build")  # Keras's, in layers of others too


def copied(model: keras.Model) -> keras.Model:
    """A model with layers of its own, which computes and trains as another one does.

    It has the same names, weights, states of seed generators, vocabularies and the like, and the
    same layers and variables are frozen. It is not compiled.

    Args:
        model: a functional or Sequential model, or one of a class with a `get_config` of its own.

    Raises:
        ValueError: a layer can't be made again from its `get_config`, or is another one then; it
            names the layer.
    """
    layers = list(model._flatten_layers())
    classes = {type(layer).__name__: type(layer) for layer in layers}
    with undrawn(), SafeModeScope(False), keras.saving.custom_object_scope(classes):
        copy = _Copies().of(model)
    copies = list(copy._flatten_layers())
    if [type(layer) for layer in layers] != [type(layer) for layer in copies]:
        raise ValueError(
            f"model {model.name!r} can't be copied: made again from get_config() it has other "
            f"layers. {_INSTEAD}"
        )
    pairs = list(zip(layers, copies, strict=True))
    for old, new in reversed(pairs):  # inner ones first
        _take_variables(old, new)
    outside_variables.write(copy, outside_variables.read(model))
    for old, new in pairs:
        _require_alike(old, new)
    return copy


class _Copies:
    """Layers made from the configurations of others, each once."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[Any, Any]] = {}

    def of(self, operation: Any) -> Any:
        """The copy of a layer or model; an operation, which has no state, is its own."""
        if not isinstance(operation, keras.layers.Layer):
            return operation
        if id(operation) not in self._made:
            self._made[id(operation)] = operation, self._copy(operation)
        return self._made[id(operation)][1]

    def _copy(self, layer: Any) -> Any:
        kind = type(layer)
        if kind is keras.Sequential:
            copy = keras.Sequential(name=layer.name)
            for inner in layer._layers:
                copy.add(self.of(inner))
            return copy
        if isinstance(layer, Functional) and kind.get_config is Functional.get_config:
            return self._functional(layer)
        with _named(layer):
            return kind.from_config(layer.get_config())

    def _functional(self, model: Any) -> Any:
        """A functional model with copies of the layers of another one."""
        if not functional_like_constructor(type(model)):
            raise ValueError(
                f"model {model.name!r} ({type(model).__name__}) can't be copied: its __init__ does "
                f"not take inputs and outputs, and it has no get_config() of its own. {_INSTEAD}"
            )
        sequence = layer_sequence_of(model)

        def between(inputs: list[Any]) -> list[Any]:
            tensors = {id(old): new for old, new in zip(sequence.inputs, inputs, strict=True)}
            for step in sequence.steps:
                replay(step, tensors, self.of(step.operation))
            return [tensors[id(t)] for t in sequence.outputs]

        return type(model)(*ends_like(sequence, between), name=model.name)


@contextlib.contextmanager
def _named(layer: Any) -> Iterator[None]:
    """Say of which layer an error is."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"layer {layer.name!r} ({type(layer).__name__}) can't be copied from its get_config(): "
            f"{type(error).__name__}: {error}. {_INSTEAD}"
        ) from error


def _take_variables(old: Any, new: Any) -> None:
    """Give all variables of a layer, states of seed generators among them, to its copy."""
    given, made = old.variables, new.variables
    if [tuple(v.shape) for v in made] != [tuple(v.shape) for v in given]:
        raise ValueError(
            f"layer {old.name!r} ({type(old).__name__}) can't be copied: made again from its "
            f"get_config() it has other variables. {_INSTEAD}"
        )
    new._trainable = old._trainable  # the property would freeze or thaw what is inside
    for source, variable in zip(given, made, strict=True):
        variable.assign(source)
        variable.trainable = source.trainable


def _require_alike(old: Any, new: Any) -> None:
    """Compare the policy and the plain attributes of a layer and its copy.

    Raises:
        ValueError: they differ: `get_config` does not hold what was changed.
    """
    mine, copied_ = _attributes(old), _attributes(new)
    differing = [
        name for name in mine if name not in copied_ or not _equal(mine[name], copied_[name])
    ]
    if old.dtype_policy.name != new.dtype_policy.name:
        differing.insert(0, "dtype_policy")
    if differing:
        raise ValueError(
            f"layer {old.name!r} ({type(old).__name__}) can't be copied: its attribute "
            f"{differing[0]!r} is not what get_config() makes of it. Let get_config() hold it. "
            f"{_INSTEAD}"
        )


def _attributes(layer: Any) -> dict[str, Any]:
    """The attributes of a layer that are plain values, without Keras's own."""
    bookkeeping = ("_",) if is_of_keras(type(layer)) else _BOOKKEEPING
    return {
        name: value
        for name, value in vars(layer).items()
        if name not in _KERAS_OWN
        and not name.startswith(bookkeeping)
        and (isinstance(value, _PLAIN) or tf.is_tensor(value))
    }


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_equal, one, other))
    if tf.is_tensor(one) or isinstance(one, np.ndarray):
        return bool(np.array_equal(np.asarray(one), np.asarray(other)))
    return not isinstance(one, _PLAIN) or bool(one == other)


def _of_keras() -> set[str]:
    """The names of what Keras notes in every layer and model, compiled and trained."""
    later = {"optimizer", "history", "stop_training", "stop_evaluating", "stop_predicting"}
    return {*vars(keras.layers.Layer()), *vars(keras.Sequential()), *later}


_KERAS_OWN = _of_keras()
