"""A part of a model on its device, with its variables and what they add to the loss."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from hvdkit.parallel.devices.optimizer_placement import move_to, tf_variable

_REGULARIZER = "_hvdkit_regularizer"


@dataclass(frozen=True)
class Stage:
    """A part of a model and where it runs.

    Attributes:
        part: a layer or model.
        device: name of its device.
        penalties: variables with regularizers, whose losses are made here, beside the variables.
    """

    part: Any
    device: str
    penalties: tuple[tuple[Any, Any], ...] = ()

    @property
    def trained(self) -> list[tf.Variable]:
        """The variables of it that are trained."""
        return [tf_variable(v) for v in self.part.trainable_variables]


def claimed(part: Any, device: str, others: Iterable[Any] = ()) -> Stage:
    """A built part with its variables on a device, and their regularizers taken from Keras.

    Keras would make their losses on the first device, which needs a copy of the weights there.
    Layers in the part that have placed their own variables keep them.

    Args:
        part: the part.
        device: the device.
        others: variables that have their places.
    """
    inner = [x for x in part._flatten_layers() if getattr(x, "places_itself", False)]
    placed = {id(variable) for layer in inner for variable in layer.variables}
    placed.update(id(variable) for variable in others)
    own = [variable for variable in part.variables if id(variable) not in placed]
    for variable in own:
        move_to(device, variable)
        if variable.regularizer is not None:
            setattr(variable, _REGULARIZER, variable.regularizer)
            variable.regularizer = None
    penalties = [(v, r) for v in own if (r := getattr(v, _REGULARIZER, None)) is not None]
    return Stage(part, device, tuple(penalties))
