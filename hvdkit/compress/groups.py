"""Units of a model that are pruned together or not: weights, neurons, heads, with their scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np


@dataclass(frozen=True)
class Slice:
    """Where the units lie in a variable.

    Attributes:
        variable: the variable.
        axis: along which the units lie; None if each element is one.
    """

    variable: Any
    axis: int | None = None

    def spread(self, keep: np.ndarray) -> np.ndarray:
        """Which elements of the variable stay, in its shape (bool).

        Args:
            keep: which units stay (bool).
        """
        shape = tuple(self.variable.shape)
        if self.axis is None:
            return keep.reshape(shape)
        along = [1] * len(shape)
        along[self.axis] = len(keep)
        return np.broadcast_to(keep.reshape(along), shape)

    def squares(self) -> np.ndarray:
        """For each unit the sum of its elements' squares (float64)."""
        squares = np.square(np.asarray(keras.ops.convert_to_numpy(self.variable), np.float64))
        if self.axis is None:
            return squares.reshape(-1)
        others = tuple(axis for axis in range(squares.ndim) if axis != self.axis)
        total: np.ndarray = squares.sum(axis=others)
        return total


@dataclass(frozen=True)
class Group:
    """Units of which a share is pruned: the weights of a kernel, the neurons or heads of a layer.

    Attributes:
        layer: the layer that they belong to.
        name: of the layer, or of the kernel, for messages.
        units: how many there are.
        slices: where they lie; a unit is pruned when its elements in all of them are zero.
        beside: where more of them lies, which has no effect once they are pruned.
        setting: the entry of the layer's config that says how many units it has; "" for weights.
        least: how many stay in any case.
    """

    layer: Any
    name: str
    units: int
    slices: tuple[Slice, ...]
    beside: tuple[Slice, ...] = ()
    setting: str = ""
    least: int = 1

    def kept(self, sparsity: float, before: np.ndarray) -> np.ndarray:
        """The units that stay (bool): those with the largest norms.

        Args:
            sparsity: the share that is pruned.
            before: those that were left before; no other ones come back.
        """
        count = min(round(sparsity * self.units), self.units - self.least)
        count = max(count, self.units - int(before.sum()))
        scores = sum(part.squares() for part in self.slices)
        scores = np.where(before, scores, -1.0)
        keep = np.ones(self.units, bool)
        keep[np.argpartition(scores, count - 1)[:count] if count else []] = False
        return keep
