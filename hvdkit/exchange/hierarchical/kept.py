"""What the aggregator between leaders keeps, and which ranks keep it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import tensorflow as tf

from hvdkit.engine import ProcessSet, Sum, allgather_object, broadcast_object, ops
from hvdkit.exchange.hierarchical.levels import Levels
from hvdkit.exchange.memory import NewValue
from hvdkit.exchange.tracked import Role, Tracked
from hvdkit.mesh.variable import raw, variable_key


class Kept:
    """The variables of an aggregator that leaders run.

    What is the same on all leaders is kept by all ranks: leaders send it with the mean. So it can
    be sent, compared and saved as if all ranks ran the aggregator, and any of them can be a leader
    in the next job. What is each leader's own, its residuals, only leaders change.
    """

    def __init__(self) -> None:
        self._alike: list[Any] = []
        self._unmoved: list[Any] = []
        self._of_bucket: dict[tuple[Any, ...], list[int]] = {}

    def track(self, rows: Sequence[Tracked], ranks: ProcessSet) -> list[Tracked]:
        """What all ranks say of the variables.

        Args:
            rows: what the aggregator says of them.
            ranks: the ranks of the exchange.

        Raises:
            NotImplementedError: something is each leader's own that could not be another's.
        """
        for row in rows:
            if row.shard is not None or (row.same_on is None and row.role is not Role.RESIDUAL):
                raise NotImplementedError(
                    f"Hierarchical can't have an aggregator inside whose {row.path} each rank has "
                    "for itself, unless its role is hvd.exchange.Role.RESIDUAL: in the next job "
                    "another rank may speak for the host."
                )
        self._alike += [row.variable for row in rows if row.same_on is not None]
        self._unmoved += [row.variable for row in rows if row.same_on is None]
        return [row if row.same_on is None else replace(row, same_on=ranks) for row in rows]

    def move_to_leader(self, levels: Levels) -> None:
        """Let leaders have the residuals of their groups; all ranks of a group call it.

        Once for each variable: other ranks have some where a checkpoint was written by other ranks,
        or on other hosts. What a host has not sent is what its ranks have not sent.
        """
        unmoved, self._unmoved = self._unmoved, []
        if not unmoved or levels.inside is None:
            return
        with tf.init_scope():
            values = [tf.convert_to_tensor(raw(variable)) for variable in unmoved]
            has_some = not levels.is_leader and any(bool(tf.reduce_any(v != 0)) for v in values)
            name = "hvdkit.hierarchical.residuals"
            if not any(allgather_object(has_some, name=name, process_set=levels.inside)):
                return
            sums = ops.grouped_allreduce(values, Sum, name=name, process_set=levels.inside)
            for variable, of_group in zip(unmoved, sums, strict=True):
                variable.assign(of_group if levels.is_leader else tf.zeros_like(of_group))

    def alike_in(
        self, variables: Sequence[Any], kept: Sequence[NewValue], levels: Levels
    ) -> list[Any]:
        """The variables, the same on all leaders, that change with a bucket.

        Only the leader knows, which tells its group once. All ranks of a group call it, and come to
        the same buckets in the same order.

        Args:
            variables: whose gradients the bucket has.
            kept: on the leader, what the aggregator keeps.
            levels: where this rank stands.
        """
        if not self._alike:
            return []
        key = (tf.executing_eagerly(), levels.leader, *map(variable_key, variables))
        if key not in self._of_bucket:
            changing = {variable_key(variable) for variable, _ in kept}
            places = [i for i, v in enumerate(self._alike) if variable_key(v) in changing]
            if levels.inside is not None:
                places = broadcast_object(
                    places,
                    levels.leader,
                    name="hvdkit.hierarchical.kept",
                    process_set=levels.inside,
                )
            self._of_bucket[key] = places
        return [self._alike[place] for place in self._of_bucket[key]]
