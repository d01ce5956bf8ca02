"""What an optimizer consists of: those inside it, and what makes it a distributed one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras

from hvdkit.exchange.chain import Chain
from hvdkit.exchange.tracked import Tracked
from hvdkit.mesh.mesh import Mesh

# Older versions of Keras 3 have none; then nothing is an instance of it.
_MULTI_OPTIMIZER = getattr(keras.optimizers, "MultiOptimizer", ())

_ATTRIBUTE = "_hvd"


@dataclass
class Attached:
    """What a distributed optimizer has besides its own.

    Attributes:
        chain: what happens to its gradients between ranks; that of all optimizers inside one.
        name: prefix of the operations' names on a timeline.
        multiplier: factor for the exchanged gradients.
        make_distributed: attaches the same to another optimizer.
        variables: those whose gradients are being applied.
        tracked: the exchange's own variables, once the optimizer is built.
        unsharded: variables, by the optimizer's keys of what this rank owns of them.
        accumulates_exchanged: whether gradients are exchanged before they are accumulated.
    """

    chain: Chain
    name: str
    multiplier: float
    make_distributed: Callable[[Any], None]
    variables: list[Any] = field(default_factory=list)
    tracked: list[Tracked] = field(default_factory=list)
    unsharded: dict[Any, Any] = field(default_factory=dict)
    accumulates_exchanged: bool = False


def attach(optimizer: Any, attached: Attached) -> None:
    """Keep it with an optimizer, past Keras's attribute tracking, which would save it."""
    vars(optimizer)[_ATTRIBUTE] = attached


def attached_to(optimizer: Any) -> Attached | None:
    """What `attach` was given; None if the optimizer is not distributed itself."""
    found: Attached | None = getattr(optimizer, _ATTRIBUTE, None)
    return found


def inner_optimizers(optimizer: Any) -> list[Any]:
    """The optimizers that `optimizer` hands its gradients to; none for most."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return [optimizer.inner_optimizer]
    if isinstance(optimizer, _MULTI_OPTIMIZER):
        return list(optimizer.optimizers)
    return []


def is_composite(optimizer: Any) -> bool:
    """Whether `optimizer` hands its gradients to other optimizers."""
    return isinstance(optimizer, (keras.optimizers.LossScaleOptimizer, _MULTI_OPTIMIZER))


def leaves(optimizer: Any) -> list[Any]:
    """The optimizers that update variables: `optimizer` itself, or those inside it."""
    if not is_composite(optimizer):
        return [optimizer]
    return [leaf for inner in inner_optimizers(optimizer) for leaf in leaves(inner)]


def is_distributed(optimizer: Any) -> bool:
    """Whether the ranks exchange the gradients that `optimizer` is given."""
    return attached_to(optimizer) is not None or any(
        map(is_distributed, inner_optimizers(optimizer))
    )


def attached_to_leaves(optimizer: Any) -> list[Attached]:
    """What is attached to the optimizers that update variables; several for a `MultiOptimizer`."""
    found = map(attached_to, leaves(optimizer))
    return [attached for attached in found if attached is not None]


def chains(optimizer: Any) -> list[Chain]:
    """The chains through which an optimizer's gradients go; none if it is None."""
    return [attached.chain for attached in attached_to_leaves(optimizer)]


def tracked_of(optimizer: Any) -> list[Tracked]:
    """What the exchange of an optimizer keeps in variables, besides the optimizer's own.

    Args:
        optimizer: an optimizer, or None. One that is not built has nothing yet.
    """
    return [one for attached in attached_to_leaves(optimizer) for one in attached.tracked]


def mesh_of(optimizer: Any) -> Mesh | None:
    """The mesh over which an optimizer's variables lie; None if there is none."""
    found = chains(optimizer)
    return found[0].mesh if found else None
