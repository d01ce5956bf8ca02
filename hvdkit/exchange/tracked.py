"""What one variable of a training is: a row of the inventory.

Broadcast, the consistency check, checkpoints and elastic jobs all read such rows
(`hvdkit.state.inventory`), so a method that keeps state of its own, such as the residuals of a
compression, is sent, compared, saved and resumed once it says here what its variables are.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from hvdkit.engine import ProcessSet
from hvdkit.mesh.layout import Layout


class Role(Enum):
    """What a variable is in a training."""

    WEIGHT = "weight"
    """A weight of the model that an optimizer trains, or that is frozen."""
    SLOT = "slot"
    """A variable of an optimizer: its step, its learning rate, its moments."""
    STATISTIC = "statistic"
    """A float weight that a layer updates from the rows it sees; averaged before it is saved."""
    SEED = "seed"
    """The state of a seed generator; each rank's own."""
    ACCUMULATOR = "accumulator"
    """Gradients that a rank has summed up and not yet reduced."""
    LOCAL = "local"
    """A variable that is each rank's own for good (`register_local_var`, or the layer says so)."""
    RESIDUAL = "residual"
    """What a rank has not yet sent of its gradients; each rank's own."""


@dataclass(frozen=True)
class Tracked:
    """One variable of a training.

    Attributes:
        variable: a `keras.Variable` or `tf.Variable`.
        role: what it is.
        path: its name in files and messages; unique in a training.
        layout: how it lies over the ranks of a mesh; None if it is whole on each.
        same_on: the ranks that hold the same value; None if each rank has its own.
    """

    variable: Any
    role: Role
    path: str
    layout: Layout | None = None
    same_on: ProcessSet | None = None
