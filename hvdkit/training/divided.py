"""Models that are divided over ranks."""

from __future__ import annotations

from typing import Any

from hvdkit.mesh.layout import is_partial, is_split
from hvdkit.optimizers.composition import is_distributed
from hvdkit.state.reachable import leading_optimizer


def require_distributed(model: Any) -> None:
    """Refuse to train a divided model with an optimizer that takes it for a whole one.

    Args:
        model: a compiled model, on every rank.

    Raises:
        ValueError: on every rank: its optimizer is not distributed.
    """
    optimizer = model.optimizer
    if optimizer is None or is_distributed(leading_optimizer(model)):
        return
    for variable in model.trainable_variables:
        if is_split(variable) or is_partial(variable):
            raise ValueError(
                f"{variable.path} is divided over the tensor ranks of the mesh, and the optimizer "
                f"({type(optimizer).__name__}) does not know it: wrap it, as in "
                f"hvd.DistributedOptimizer(keras.optimizers.{type(optimizer).__name__}(...))."
            )
