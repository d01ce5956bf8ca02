"""Pruned neurons and heads, really left out."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from hvdkit.compress.copies import copied, plain_model
from hvdkit.compress.groups import Group
from hvdkit.compress.units import Heads, Neurons, Units
from hvdkit.state import outside_variables


def shrink(model: keras.Model) -> keras.Model:
    """Make a smaller model of one whose neurons or heads are pruned; both give the same.

    Left out are neurons between two Dense layers and heads of MultiHeadAttention whose share of all
    kernels and biases is zero, as `Pruning` with `Neurons()` or `Heads()` leaves them; one of each
    layer stays. The result is a functional Keras model with the same names, not compiled; it
    needs no hvdkit to be loaded.

    Args:
        model: a functional or Sequential model, such as `keras.models.load_model` gives.

    Raises:
        ValueError: the model is no graph of layers, or nothing of it is zero.

    Example:
        >>> small = hvd.compress.shrink(model)
        >>> small.save("small.keras")
    """
    plain = plain_model(model)
    groups = [*_found(Neurons(), plain), *_found(Heads(), plain)]
    left = {id(group.layer): (group, _left(group)) for group in groups}
    if all(kept.all() for _, kept in left.values()):
        raise ValueError(
            f"model {model.name!r} has nothing to leave out: no neuron between two Dense layers "
            "and no head of a MultiHeadAttention is zero. Train it with hvd.compress.Pruning(..., "
            "units=hvd.compress.Neurons()) or Heads() first."
        )

    def config_of(layer: Any) -> dict[str, Any]:
        config = layer.get_config()
        if id(layer) in left:
            group, kept = left[id(layer)]
            config[group.setting] = int(kept.sum())
        return dict(config)

    small = copied(plain, config_of)
    values = {id(variable): np.asarray(variable) for variable in plain.weights}
    for group, kept in left.values():
        for part in (*group.slices, *group.beside):
            key = id(part.variable)
            values[key] = np.compress(kept, values[key], axis=part.axis)
    small.set_weights([values[id(variable)] for variable in plain.weights])
    outside_variables.write(small, outside_variables.read(plain))
    outside_variables.renew(small)
    return small


def _found(units: Units, model: Any) -> list[Group]:
    try:
        return units.find(model)
    except ValueError:  # a model may have the one kind and not the other
        return []


def _left(group: Group) -> np.ndarray:
    kept: np.ndarray = sum(part.squares() for part in group.slices) > 0  # type: ignore[assignment]
    if not kept.any():
        kept[0] = True
    return kept
