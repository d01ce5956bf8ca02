"""Which optimizers may update a part of a variable.

Most of Keras's treat each element by itself, so a rank can update its part alone. Those that look
at a whole variable (a norm, factored means, an orthogonal matrix) would do something else on a
part, and so would most constraints; they are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from hvdkit.mesh.layout import is_sharded

LOOK_AT_WHOLE = tuple(
    getattr(keras.optimizers, name)
    for name in ("Adafactor", "Lamb", "Muon")
    if hasattr(keras.optimizers, name)
)
"""Keras's optimizers whose update of an element depends on the whole variable."""

BY_ELEMENT = tuple(
    getattr(keras.optimizers, name)
    for name in (
        *("SGD", "RMSprop", "Adam", "AdamW", "Adadelta", "Adagrad", "Adamax", "Nadam", "Ftrl"),
        *("Lion", "ScheduleFreeAdamW"),
    )
    if hasattr(keras.optimizers, name)
)
"""Keras's optimizers that treat each element by itself."""

_ELEMENTWISE_CONSTRAINTS = (keras.constraints.NonNeg,)


def updates_by_element(optimizer: Any) -> bool:
    """Whether an optimizer's rule is known to treat each element by itself: Keras's own are."""
    return _has_rule_of(optimizer, BY_ELEMENT)


def has_rule_of_keras(optimizer: Any) -> bool:
    """Whether an optimizer's rule is one of Keras's own."""
    return _has_rule_of(optimizer, BY_ELEMENT + LOOK_AT_WHOLE)


def _has_rule_of(optimizer: Any, kinds: Sequence[type]) -> bool:
    rule = type(optimizer).update_step
    return any(rule is getattr(kind, "update_step", None) for kind in kinds)


def require_elementwise(optimizer: Any, variables: Sequence[Any]) -> None:
    """Refuse an optimizer, or a constraint, that has to see whole variables.

    Args:
        optimizer: a Keras optimizer that updates variables itself.
        variables: those that it is built for.

    Raises:
        ValueError: on every rank. It names the optimizer or the constraint, and the variable.
    """
    for variable in variables:
        if not is_sharded(variable):
            continue
        where = f"{variable.path}, which is divided over the tensor ranks of the mesh"
        if isinstance(optimizer, LOOK_AT_WHOLE):
            raise ValueError(
                f"{type(optimizer).__name__} looks at a whole variable, and this rank holds a "
                f"part of {where}. Use an optimizer that treats each element by itself, such as "
                "AdamW, or tensor=1."
            )
        constraint = getattr(variable, "constraint", None)
        if constraint is not None and not isinstance(constraint, _ELEMENTWISE_CONSTRAINTS):
            raise ValueError(
                f"the constraint {type(constraint).__name__} looks at a whole variable, and this "
                f"rank holds a part of {where}. Leave it out, or use tensor=1."
            )
