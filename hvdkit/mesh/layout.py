"""How a variable of a model lies over the ranks of a mesh.

A variable without a layout is whole on every rank of its tensor group and gets the same gradient
there, as in a model that is not divided.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hvdkit.mesh.mesh import Mesh

_ATTRIBUTE = "_hvdkit_layout"


@dataclass(frozen=True)
class Layout:
    """How one variable lies over a tensor group.

    Attributes:
        mesh: the mesh.
        axis: the axis along which each rank of the tensor group holds an equal part, in the
            order of the ranks; None if each holds the whole.
        partial: whether each rank's gradient of a whole variable is only its part of a sum, as
            where each rank sees a part of the sequence.
    """

    mesh: Mesh
    axis: int | None = None
    partial: bool = False

    def whole_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the undivided variable, of which this rank holds `shape`."""
        if self.axis is None:
            return shape
        return tuple(n * self.mesh.tensor if i == self.axis else n for i, n in enumerate(shape))


def set_layout(variable: Any, layout: Layout) -> None:
    """Say how a `keras.Variable`, or a `tf.Variable`, lies over the ranks."""
    for one in (variable, getattr(variable, "_value", None)):
        if one is not None:
            setattr(one, _ATTRIBUTE, layout)


def layout_of(variable: Any) -> Layout | None:
    """How a variable lies over the ranks; None if it is whole on each."""
    return getattr(variable, _ATTRIBUTE, None)


def is_split(variable: Any) -> bool:
    """Whether each rank of a tensor group holds a part of the variable."""
    layout = layout_of(variable)
    return layout is not None and layout.axis is not None and layout.mesh.tensor > 1


def is_partial(variable: Any) -> bool:
    """Whether the ranks of a tensor group have parts of the variable's gradient, to be summed."""
    layout = layout_of(variable)
    return layout is not None and layout.partial and layout.mesh.tensor > 1
