"""Which layers are on which ranks, and what of their weights: for the words and the picture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import keras

from hvdkit.graph.layer_sequence import LayerSequence, operations_of
from hvdkit.mesh.layout import layout_of
from hvdkit.parallel.automatic.kinds import Columns, Gathered, Role, Roles, Row, Rows

How = Literal["outputs", "gathered", "inputs", "rows", "whole"]


@dataclass(frozen=True)
class PlacedLayer:
    """A layer with weights in a divided model.

    Attributes:
        name: its name, with those of composite layers around it.
        stage: the stage that has it.
        how: what is sharded over the ranks of the stage: its outputs (summed over by a later layer,
            or gathered), its inputs, its rows (of an embedding), or nothing.
        weights: their number, undivided.
    """

    name: str
    stage: int
    how: How
    weights: int


def placed(sequence: LayerSequence, cuts: Sequence[str], roles: Roles) -> list[PlacedLayer]:
    """The layers with weights of their own, in order, each once.

    Args:
        sequence: the model's layers.
        cuts: names of the layers after which it is cut into stages.
        roles: what becomes of them.
    """
    points = [0, *(sequence.point_after(name) for name in cuts), len(sequence.steps)]
    found: dict[int, PlacedLayer] = {}
    for stage, (start, stop) in enumerate(pairwise(points)):
        for operation in operations_of(sequence.steps[start:stop]):
            for layer, name in _inside(operation, ""):
                role = roles.layers.get(id(layer), (None, None))[1]
                size = sum(map(_unsharded_size, layer.weights))
                found.setdefault(id(layer), PlacedLayer(name, stage, _how(role), size))
    return list(found.values())


def _inside(operation: Any, around: str) -> Iterator[tuple[Any, str]]:
    """The layers inside of one that have weights and no layers in them."""
    if not isinstance(operation, keras.layers.Layer) or not operation.weights:
        return
    name = f"{around}{operation.name}"
    inner = [layer for layer in operation._layers if layer.weights]
    if not inner:
        yield operation, name
    for layer in inner:
        yield from _inside(layer, f"{name}/")


def _unsharded_size(variable: Any) -> int:
    layout, shape = layout_of(variable), tuple(variable.shape)
    return math.prod(shape if layout is None else layout.unsharded_shape(shape))


def _how(role: Role | None) -> How:
    if isinstance(role, Columns):
        return "outputs"
    if isinstance(role, Gathered):
        return "gathered"
    if isinstance(role, Row):
        return "inputs"
    return "rows" if isinstance(role, Rows) else "whole"
