"""What local SGD keeps for one optimizer: how far its groups of variables are."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import tensorflow as tf

from hvdkit.exchange.local_sgd.round import Round


@dataclass(eq=False)
class Leaf:
    """What is kept for one optimizer.

    Attributes:
        rounds: its groups of variables, by pattern.
        patterns: that of each variable.
        updates: the updates so far; None where nobody asks.
        prefix: begins the names of operations between ranks.
        groups_are_compared: whether the ranks know that they have the same groups.
    """

    rounds: dict[str, Round]
    patterns: list[str]
    updates: keras.Variable | None = None
    prefix: str = "hvdkit_local_sgd"
    groups_are_compared: bool = False

    def count_rows(self, rows: tf.Tensor) -> None:
        """Count rows that this rank has seen."""
        for one in self.rounds.values():
            one.count_rows(rows)

    def before_update(self) -> None:
        """Note where rounds start."""
        for one in self.rounds.values():
            one.before_update()

    def after_update(self) -> None:
        """Count the update in each group, and meet where it is time."""
        for one in self.rounds.values():
            one.after_update(self.prefix)

    def meet(self) -> None:
        """Meet now."""
        for one in self.rounds.values():
            one.meet(self.prefix)
