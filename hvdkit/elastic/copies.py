"""A copy of variables in memory."""

from __future__ import annotations

from collections.abc import Iterable

import tensorflow as tf

from hvdkit.exchange.tracked import Tracked
from hvdkit.mesh.variable import raw


class Copies:
    """The values of variables at one time, in the memory of the host.

    On a CPU nothing is copied: the next update of a variable makes a new buffer.

    Args:
        rows: the variables.
    """

    def __init__(self, rows: Iterable[Tracked]) -> None:
        with tf.device("CPU:0"):
            self._values = [(row.variable, tf.identity(raw(row.variable))) for row in rows]

    def put_back(self) -> None:
        """Give the variables their values again."""
        for variable, value in self._values:
            variable.assign(value)
