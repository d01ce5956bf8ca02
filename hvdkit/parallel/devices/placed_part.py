"""A part of a model on its device, with its variables and what they add to the loss."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from hvdkit.parallel.devices.optimizer_placement import move_to, tf_variable

_REGULARIZER = "_hvdkit_regularizer"


@dataclass(frozen=True)
class PlacedPart:
    """A part of a model and where it runs.

    Attributes:
        layer: the part, a layer or model.
        device: name of its device.
        penalties: variables with regularizers, whose losses are made here, beside the variables.
    """

    layer: Any
    device: str
    penalties: tuple[tuple[Any, Any], ...] = ()

    @property
    def trained(self) -> list[tf.Variable]:
        """The variables of it that are trained."""
        return [tf_variable(v) for v in self.layer.trainable_variables]


def placed(layer: Any, device: str, others: Iterable[Any] = ()) -> PlacedPart:
    """A built layer with its variables on a device, and their regularizers taken from Keras.

    Keras would make their losses on the first device, which needs a copy of the weights there.
    Layers in it that have placed their own variables keep them.

    Args:
        layer: it.
        device: the device.
        others: variables that lie on their devices already.
    """
    inner = [x for x in layer._flatten_layers() if getattr(x, "places_itself", False)]
    lie_elsewhere = {id(variable) for one in inner for variable in one.variables}
    lie_elsewhere.update(id(variable) for variable in others)
    own = [variable for variable in layer.variables if id(variable) not in lie_elsewhere]
    for variable in own:
        move_to(device, variable)
        if variable.regularizer is not None:
            setattr(variable, _REGULARIZER, variable.regularizer)
            variable.regularizer = None
    penalties = [(v, r) for v in own if (r := getattr(v, _REGULARIZER, None)) is not None]
    return PlacedPart(layer, device, tuple(penalties))
