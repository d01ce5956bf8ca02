"""What a composed optimizer consists of."""

from __future__ import annotations

from typing import Any

from hvdkit.exchange.tracked import Tracked
from hvdkit.optimizers.mixins import leaves


def tracked_of(optimizer: Any) -> list[Tracked]:
    """The variables that the exchanges of an optimizer keep besides the optimizer's own.

    Args:
        optimizer: any optimizer; there are none of one that is not distributed.
    """
    return [row for leaf in leaves(optimizer) for row in getattr(leaf, "_hvd_exchange_state", [])]
