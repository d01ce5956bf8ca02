"""Constants that layers compute with, made from their variables.

`keras.layers.Normalization` has some, every layer may that has a `finalize_state()`, and those of
one's own that make them in `load_own_variables`.
"""

from __future__ import annotations

import functools
import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit import patches
from hvdkit.engine import logger
from hvdkit.mesh.variable import variable_key
from hvdkit.patches import Patch
from hvdkit.state.arrays import digest
from hvdkit.state.keepers import is_overridden, loadable

# Their finalize_state() makes state of what `adapt` has seen, not of variables.
ADAPTED = (
    keras.layers.StringLookup,
    keras.layers.IntegerLookup,
    keras.layers.TextVectorization,
    keras.layers.Discretization,
)

_looked = False
_with_constants: weakref.WeakSet[Any] = weakref.WeakSet()


def renew(model: Any) -> bool:
    """Make the constants anew that layers compute with, after their variables were written.

    Graphs that were traced before hold the old ones; see `remake_functions`.

    Args:
        model: a model, or a layer.

    Returns:
        Whether a constant is another one now.
    """
    return _renew([layer for layer in model._flatten_layers() if makes_constants(layer)])


def renew_layers_of(variables: Sequence[Any]) -> bool:
    """`renew` those layers that own one of some variables.

    Args:
        variables: `keras.Variable` or `tf.Variable`.

    Returns:
        Whether a constant is another one now.
    """
    keys = {variable_key(variable) for variable in variables}
    layers = [
        layer
        for layer in _layers_with_constants()
        if makes_constants(layer) and any(variable_key(v) in keys for v in _direct(layer))
    ]
    if layers and not tf.executing_eagerly():
        # A constant that is made in a graph belongs to it.
        logger.warning(
            "hvdkit: variables of %s are written inside a tf.function, which can't make anew the "
            "constants that it computes with: write them outside of it.",
            ", ".join(sorted(layer.name for layer in layers)),
        )
        return False
    return _renew(layers)


def note_constants(original: Callable[..., Any], layer: Any, variable: Any) -> None:
    """What Keras does when a layer gets a variable: note the layers that make constants of them."""
    original(layer, variable)
    if _can_make_constants(layer):
        _with_constants.add(layer)


NOTE_CONSTANTS = Patch(
    keras.Layer,
    "_track_variable",
    note_constants,
    "constants that a layer makes of its variables are made anew when these are sent",
)


def _layers_with_constants() -> list[Any]:
    """All of this process's, also those that were made before they were noted."""
    global _looked
    patches.install(NOTE_CONSTANTS)
    if not _looked:
        _looked = True
        # By class: asked itself, a proxy that is no layer would answer for another object.
        layers = [each for each in gc.get_objects() if issubclass(type(each), keras.Layer)]
        _with_constants.update(filter(_can_make_constants, layers))
    return list(_with_constants)


def _direct(layer: Any) -> list[Any]:
    """The variables of a layer itself, without those of layers inside it."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def _renew(layers: Sequence[Any]) -> bool:
    changed = False
    for layer in layers:
        before = digest(dict(constants(layer)))
        if callable(getattr(layer, "finalize_state", None)):
            layer.finalize_state()
        elif dict(constants(layer)):
            layer.load_own_variables(loadable(layer))
        changed |= before != digest(dict(constants(layer)))
    return changed


def makes_constants(layer: Any) -> bool:
    """Whether a layer computes with constants that it makes from its variables."""
    return bool(layer.built) and _can_make_constants(layer)


def _can_make_constants(layer: Any) -> bool:
    if isinstance(layer, ADAPTED):
        return False
    finalizes = callable(getattr(layer, "finalize_state", None))
    return finalizes or is_overridden(layer, "load_own_variables")


def constants(layer: Any) -> Iterator[tuple[str, Any]]:
    """Numbers in attributes of a layer, which are no variables."""
    for name, value in vars(layer).items():
        if name not in _of_any_layer() and not name.startswith("_hvd") and _is_constant(value):
            yield name, value


@functools.cache
def _of_any_layer() -> frozenset[str]:
    return frozenset(vars(keras.layers.Layer(name="hvdkit")))


def _is_constant(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and all(map(_is_constant, value))
    # A tensor of a graph has no value.
    return isinstance(value, (np.ndarray, float)) or (
        tf.is_tensor(value) and hasattr(value, "numpy") and not isinstance(value, tf.Variable)
    )
