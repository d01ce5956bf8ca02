"""Variables that are shards of a larger one, on several devices of a process.

To an optimizer each shard is a variable of its own. Most treat each element by itself, so it makes
no difference; what takes a norm, means or a matrix of one variable would take it of a shard, and is
refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import keras

from hvdkit.optimizers.elementwise import LOOK_AT_WHOLE
from hvdkit.patches import Patch

_ATTRIBUTE = "_hvdkit_shard"


@dataclass(frozen=True)
class Shard:
    """What a variable is of a layer that is sharded over devices.

    Attributes:
        layer: the sharded layer (`hvdkit.parallel.devices.sharded_layer.DeviceShardedLayer`).
        holder: which of its `holders` has the variable.
        position: which weight of that holder it is.
    """

    layer: Any
    holder: int
    position: int


def mark_shards(layer: Any) -> None:
    """Say what the weights of a sharded layer's holders are."""
    for number, holder in enumerate(layer.holders()):
        for position, variable in enumerate(holder.weights):
            setattr(variable, _ATTRIBUTE, Shard(layer, number, position))


def shard_of(variable: Any) -> Shard | None:
    """What a variable is of a sharded layer; None if it is of no such layer."""
    return getattr(variable, _ATTRIBUTE, None)


def build(original: Callable[..., Any], optimizer: Any, variables: Iterable[Any]) -> Any:
    """Refuse an optimizer that has to see unsharded variables, where it would see shards.

    Raises:
        ValueError: it names the optimizer or its clipping, and the layer.
    """
    variables = list(variables)
    found = (shard.layer for v in variables if (shard := shard_of(v)))
    layer = next((layer for layer in found if len(layer.devices) > 1), None)
    if layer is not None:
        _refuse(optimizer, f"the weights of layer {layer.name!r} are sharded over several devices")
    return original(optimizer, variables)


def _refuse(optimizer: Any, where: str) -> None:
    if isinstance(optimizer, LOOK_AT_WHOLE):
        raise ValueError(
            f"{type(optimizer).__name__} looks at a whole variable, and {where}. Use an optimizer "
            "that treats each element by itself, such as AdamW, or LayerSplit, which keeps "
            "variables unsharded."
        )
    if getattr(optimizer, "clipnorm", None):
        raise ValueError(
            f"clipnorm is of the gradient of a whole variable, and {where}. Use global_clipnorm or "
            "clipvalue, or LayerSplit, which keeps variables whole."
        )


PATCHES = (
    Patch(
        keras.optimizers.Optimizer,
        "build",
        build,
        "refuses optimizers that need unsharded variables where these are sharded",
    ),
)
