"""Variables that meet together: the ranks step alone, and after a round they take the mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from hvdkit.engine import Sum, ops, topology
from hvdkit.exchange.allreduce import AllReduce
from hvdkit.exchange.local_sgd.outer import OuterStep
from hvdkit.exchange.tracked import Role, Tracked
from hvdkit.mesh.variable import constrain, path_of, raw


class Round:
    """Some variables of one optimizer, and how far they are since the ranks met last.

    Args:
        variables: those that meet together.
        every: the updates from one meeting to the next.
        mean: makes the mean over ranks.
        total: makes the sum over ranks, for a mean weighted by rows; None for the plain mean.
        outer: what is done with the mean; None to go on from it.
        number: tells the rounds of an exchange apart.
    """

    def __init__(
        self,
        variables: Sequence[Any],
        every: int,
        mean: AllReduce,
        total: AllReduce | None,
        outer: OuterStep | None,
        number: int,
    ) -> None:
        self.every = every
        self.outer = outer
        self._variables = list(variables)
        self._mean = mean
        self._total = total
        self._slots: list[Any] = []
        self._number = number
        self._since = _kept(0, "int64", "since_meeting")
        self._rows = _kept(0.0, "float32", "rows_since_meeting")

    def tracked(self) -> list[Tracked]:
        """Its variables."""
        path = f"local_sgd/{{}}/{path_of(self._variables[0])}"
        rows = [
            Tracked(self._since, Role.SLOT, path.format("since"), same_on=self._mean.ranks),
            *([] if self.outer is None else self.outer.tracked()),
        ]
        if self._total is not None:
            rows.append(Tracked(self._rows, Role.SLOT, path.format("rows"), resumes_from_mean=True))
        return rows

    def add_slot(self, slot: Any) -> None:
        """Let a slot meet, too."""
        self._slots.append(slot)

    def count_rows(self, rows: tf.Tensor) -> None:
        """Count rows that this rank has seen since the last meeting."""
        self._rows.assign_add(rows)

    def before_update(self) -> None:
        """Note where a round starts, if one does."""
        if self.outer is not None:
            tf.cond(self._since.value == 0, self.outer.begin, _nothing)

    def after_update(self, prefix: str) -> None:
        """Count the update, and meet if it is time.

        Args:
            prefix: begins the names of operations between ranks.
        """
        since = self._since.value + 1
        self._since.assign(since)
        tf.cond(since >= self.every, lambda: self._meet(prefix), _nothing)

    def meet(self, prefix: str) -> None:
        """Meet now, unless nothing has happened since the last time.

        Args:
            prefix: see `after_update`.
        """

        def meet() -> None:
            self._meet(prefix)
            for variable in self._variables:
                constrain(variable)  # after an update Keras does it

        tf.cond(self._since.value > 0, meet, _nothing)

    def _meet(self, prefix: str) -> None:
        name = f"{prefix}.meeting{self._number}"
        together = [*self._variables, *self._slots]
        means = self._means(together, name)
        of_weights = means[: len(self._variables)]
        if self.outer is not None:
            of_weights = self.outer.moved(of_weights)
        values = [*of_weights, *means[len(self._variables) :]]
        for variable, value in zip(together, values, strict=True):
            raw(variable).assign(value)
        self._since.assign(0)
        self._rows.assign(0.0)

    def _means(self, variables: Sequence[Any], name: str) -> list[tf.Tensor]:
        own = [tf.convert_to_tensor(raw(variable)) for variable in variables]
        if self._total is None:
            return self._mean.gradients(own, variables, name)
        ranks = self._mean.ranks
        rows = tf.convert_to_tensor(self._rows.value)
        of_all = ops.allreduce(rows, Sum, name=f"{name}.rows", process_set=ranks)
        # Nobody has counted: a loop of one's own.
        equal = 1.0 / tf.cast(topology.ranks_when_run(ranks), tf.float32)
        share = tf.where(of_all > 0, tf.math.divide_no_nan(rows, of_all), equal)
        shares = [value * tf.cast(share, value.dtype) for value in own]
        return self._total.gradients(shares, variables, name)


def _kept(value: float, dtype: str, name: str) -> keras.Variable:
    return keras.Variable(value, dtype=dtype, trainable=False, name=name)


def _nothing() -> None:
    """The branch in which nothing happens."""
