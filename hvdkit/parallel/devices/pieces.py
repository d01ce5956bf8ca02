"""Variables that are pieces of a larger one, on several devices of a process.

To an optimizer each piece is a variable of its own. Most treat each element by itself, so it makes
no difference; what takes a norm, means or a matrix of one variable would take it of a piece, and is
refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras

from hvdkit.optimizers.elementwise import LOOK_AT_WHOLE

_ATTRIBUTE = "_hvdkit_piece_of"


def mark_pieces(variables: Iterable[Any], layer: str) -> None:
    """Say that variables are pieces of larger ones, of the layer of this name."""
    for variable in variables:
        setattr(variable, _ATTRIBUTE, layer)


def build(original: Callable[..., Any], optimizer: Any, variables: Iterable[Any]) -> Any:
    """Refuse an optimizer that has to see whole variables, where it would see pieces.

    Raises:
        ValueError: it names the optimizer or its clipping, and the layer.
    """
    variables = list(variables)
    layer = next((name for v in variables if (name := getattr(v, _ATTRIBUTE, None))), None)
    if layer is not None:
        _refuse(optimizer, f"the weights of layer {layer!r} are in pieces on several devices")
    return original(optimizer, variables)


def _refuse(optimizer: Any, where: str) -> None:
    if isinstance(optimizer, LOOK_AT_WHOLE):
        raise ValueError(
            f"{type(optimizer).__name__} looks at a whole variable, and {where}. Use an optimizer "
            "that treats each element by itself, such as AdamW, or LayerSplit, which keeps "
            "variables whole."
        )
    if getattr(optimizer, "clipnorm", None):
        raise ValueError(
            f"clipnorm is of the gradient of a whole variable, and {where}. Use global_clipnorm or "
            "clipvalue, or LayerSplit, which keeps variables whole."
        )


HOOKS = ((keras.optimizers.Optimizer, "build", build),)
"""Of which class which method is replaced by which function here."""
