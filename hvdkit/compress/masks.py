"""Weights that stay zero, whatever an optimizer does with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.mesh.variable import constrain, path_of
from hvdkit.optimizers.composition import leaves


class Masked(keras.constraints.Constraint):
    """A constraint that sets weights to zero, which an optimizer applies at the end of each update.

    So they are zero after momentum, weight decay and what replaces weights by their averages, also
    within steps that run in one graph.

    Args:
        variable: the variable that it is for.
    """

    def __init__(self, variable: Any) -> None:
        self.before = variable.constraint
        self.mask = tf.Variable(np.ones(variable.shape, bool), trainable=False)

    def __call__(self, w: Any) -> Any:
        """The weights, after the constraint that they had before, with zeros."""
        if self.before is not None:
            w = self.before(w)
        return keras.ops.where(self.mask, w, keras.ops.zeros_like(w))


def masked(variable: Any) -> Masked:
    """Give a variable a mask that leaves all of its elements."""
    mask = Masked(variable)
    variable.constraint = mask
    return mask


def set_mask(variable: Any, mask: Masked, keep: np.ndarray) -> None:
    """Set the elements of a variable to zero that do not stay.

    Args:
        variable: the variable.
        mask: its mask.
        keep: which elements stay (bool, of its shape).
    """
    mask.mask.assign(keep)
    constrain(variable)


def average_masked(optimizer: Any, masks: Mapping[int, tuple[Any, Masked]]) -> None:
    """Set the averages that an optimizer keeps of pruned weights (`use_ema`) to zero, too.

    Keras makes them before constraints, and may put them in the place of the weights.

    Args:
        optimizer: an optimizer.
        masks: by the id of each variable, the variable and its mask.

    Raises:
        ValueError: on every rank: the averages are sharded over ranks.
    """
    for leaf in leaves(optimizer):
        if not leaf.use_ema:
            continue
        averages = leaf._model_variables_moving_average
        for variable, average in zip(leaf._trainable_variables, averages, strict=True):
            if id(variable) not in masks:
                continue
            if tuple(average.shape) != tuple(variable.shape):
                raise ValueError(
                    f"Pruning can't mask the averages (use_ema) of {path_of(variable)}, which are "
                    "sharded over the ranks: leave use_ema out, or use another exchange."
                )
            average.assign(masks[id(variable)][1](average))
