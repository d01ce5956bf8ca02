"""Weights that a layer updates by itself, and what becomes of them over ranks.

A float weight made with `trainable=False` is taken for a statistic of the rows that a rank has
seen, so its average over ranks is that of all rows. A layer for which that is not so says it, in
its class or in the object:

    hvd_over_ranks = "own"         each rank keeps its own: a queue of features, a rank's centers
    hvd_over_ranks = "average"     the average is right
    hvd_over_ranks = {"queue": "own", "mean": "average"}     by the names of its weights

"own" goes for what the layer keeps outside of variables, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import keras

from hvdkit.mesh.variable import path_of

ATTRIBUTE = "hvd_over_ranks"
_OWN, _AVERAGE = "own", "average"
# How batch normalization calls its statistics, Keras's and that of others.
_STATISTICS = ("moving_", "running_")


def is_own(layer: Any, variable: Any) -> bool:
    """Whether each rank keeps its own values of a weight that a layer updates by itself.

    Raises:
        ValueError: the layer says something else than "own" or "average".
    """
    return _said(layer, variable) == _OWN


def keeps_its_own(layer: Any) -> bool:
    """Whether each rank has its own of what a layer keeps outside of variables."""
    return getattr(layer, ATTRIBUTE, None) == _OWN


def own_variables(model: Any) -> list[Any]:
    """The weights of which each rank keeps its own values, by the word of their layers."""
    return [
        variable
        for layer in model._flatten_layers()
        for variable in layer._non_trainable_variables
        if is_own(layer, variable)
    ]


def recurrent_states(model: Any) -> list[Any]:
    """The states of stateful RNNs, of each rank's last rows; Keras lists them nowhere."""
    return [
        state
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.RNN) and layer.stateful
        for state in keras.tree.flatten(layer.states)
        if isinstance(state, keras.Variable)
    ]


def updates_itself(layer: Any) -> bool:
    """Whether a layer may change its `trainable=False` weights while the model is trained."""
    if isinstance(layer, keras.layers.Normalization):
        return False
    if getattr(layer, "quantization_mode", None) is not None:  # kernels and their scales
        return False
    frozen = isinstance(layer, keras.layers.BatchNormalization) and not layer.trainable
    return not frozen


def doubtful(model: Any, variables: Iterable[Any]) -> list[str]:
    """The names of weights that are averaged, and of which nobody said that this is right."""
    averaged = {id(variable) for variable in variables}
    return [
        path_of(variable)
        for layer in model._flatten_layers()
        for variable in layer._non_trainable_variables
        if id(variable) in averaged
        and not variable.name.startswith(_STATISTICS)
        and _said(layer, variable) is None
    ]


def _said(layer: Any, variable: Any) -> str | None:
    said = getattr(layer, ATTRIBUTE, None)
    if isinstance(said, Mapping):
        said = said.get(variable.name)
    if said not in (None, _OWN, _AVERAGE):
        raise ValueError(
            f'{type(layer).__name__}.{ATTRIBUTE} is "own", "average", or a dict from names of '
            f"weights to these, not {said!r}."
        )
    return said
