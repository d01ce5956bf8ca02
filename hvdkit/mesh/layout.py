"""How a variable of a model lies over the ranks of a mesh.

A variable without a layout is replicated: it is the same on every rank, and gets the same gradient
on all ranks of a replica, as in a model on one rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hvdkit.mesh.mesh import Axis, Mesh

_ATTRIBUTE = "_hvdkit_layout"


@dataclass(frozen=True)
class Layout:
    """How one variable lies over a mesh.

    Attributes:
        mesh: the mesh.
        shards: for each axis of the mesh over which the variable is sharded, the dimension of the
            variable along which it is: each rank holds an equal shard, in the order of the ranks.
        partial: the axes of the mesh on which a rank's gradient of the variable is only its term
            of a sum, as where each rank sees its shard of the sequence.

    Example:
        >>> columns = Layout(mesh, {"tensor": 1})  # of a kernel [features, units]
    """

    mesh: Mesh
    shards: Mapping[Axis, int] = field(default_factory=dict)
    partial: frozenset[Axis] = frozenset()

    @property
    def is_sharded(self) -> bool:
        """Whether ranks hold shards: an axis of a single rank does not count."""
        return any(True for _ in self.sharded_axes())

    @property
    def is_partial(self) -> bool:
        """Whether ranks hold terms of the gradient: an axis of a single rank does not count."""
        return any(self.mesh.size_along(axis) > 1 for axis in self.partial)

    def sharded_axes(self) -> Iterator[tuple[Axis, int]]:
        """The axes of several ranks over which the variable is sharded, with its dimensions."""
        for axis, dimension in self.shards.items():
            if self.mesh.size_along(axis) > 1:
                yield axis, dimension

    def unsharded_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the unsharded variable, of which this rank holds `shape`."""
        sizes = list(shape)
        for axis, dimension in self.shards.items():
            sizes[dimension] *= self.mesh.size_along(axis)
        return tuple(sizes)

    def shard_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The opposite of `unsharded_shape`, for a shape that divides."""
        sizes = list(shape)
        for axis, dimension in self.shards.items():
            sizes[dimension] //= self.mesh.size_along(axis)
        return tuple(sizes)

    def shard_of(self, array: np.ndarray) -> np.ndarray:
        """This rank's shard of an unsharded array."""
        for axis, dimension in self.sharded_axes():
            shards = np.split(array, self.mesh.size_along(axis), dimension)
            array = shards[self.mesh.index_along(axis)]
        return array


def set_layout(variable: Any, layout: Layout) -> None:
    """Say how a `keras.Variable`, or a `tf.Variable`, lies over the ranks."""
    for one in (variable, getattr(variable, "_value", None)):
        if one is not None:
            setattr(one, _ATTRIBUTE, layout)


def layout_of(variable: Any) -> Layout | None:
    """How a variable lies over the ranks; None if it is the same on each."""
    return getattr(variable, _ATTRIBUTE, None)


def is_sharded(variable: Any) -> bool:
    """Whether each rank holds a shard of the variable."""
    layout = layout_of(variable)
    return layout is not None and layout.is_sharded


def is_partial(variable: Any) -> bool:
    """Whether the ranks hold terms of the variable's gradient, to be summed."""
    layout = layout_of(variable)
    return layout is not None and layout.is_partial
