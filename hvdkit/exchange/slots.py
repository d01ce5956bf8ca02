"""Optimizers whose slots hold what belongs to the weights, so that these can't meet alone."""

from __future__ import annotations

from typing import Any

import keras

AVERAGED = "average"
"""What Keras calls the slots of `use_ema`."""

_FTRL = keras.optimizers.Ftrl
# Older versions of Keras 3 have none; then nothing is an instance of it.
_SCHEDULE_FREE = getattr(keras.optimizers, "ScheduleFreeAdamW", ())


def require_slots(
    optimizer: Any, slots: str, variable: Any, *, has_outer: bool, exchange: str = "LocalSGD"
) -> None:
    """Refuse an optimizer whose slots would undo a meeting, or can't be part of one.

    Args:
        optimizer: the optimizer.
        slots: "own" or "average".
        variable: the variable of a slot; None where it is not known.
        has_outer: whether an outer optimizer moves the weights.
        exchange: whose slots they are, in words.

    Raises:
        ValueError: it says what to do.
    """
    name = type(optimizer).__name__
    if isinstance(optimizer, _FTRL):
        raise ValueError(
            "Ftrl computes weights from its slots alone, so a mean of weights would be forgotten "
            f"in the next update: use another optimizer with {exchange}."
        )
    if isinstance(optimizer, _SCHEDULE_FREE) and (slots == "own" or has_outer):
        other = ' or LocalSGD(slots="average") without an outer optimizer'
        raise ValueError(
            f"{name} keeps weights in its slots, which have to meet with the others: use another "
            f"optimizer with {exchange}{other}."
        )
    if variable is None and slots == "average":
        raise ValueError(
            f"{name} does not say which weights some of its slots belong to, so they can't meet "
            'together: use LocalSGD(slots="own").'
        )
