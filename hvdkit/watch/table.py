"""A table of numbers that graphs write into while they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from hvdkit.watch.activity import own_variable, written_by_graph

COLUMNS = 4
_ROWS = 64  # of one variable

Scatter = Callable[..., tf.Operation]
set_to: Scatter = tf.raw_ops.ResourceScatterUpdate
add_to: Scatter = tf.raw_ops.ResourceScatterAdd
raise_to: Scatter = tf.raw_ops.ResourceScatterMax


class Table:
    """Rows of `COLUMNS` numbers (float64), as many as are written; all begin with zeros."""

    def __init__(self) -> None:
        self._variables: list[tf.Variable] = []

    def reserve(self, row: int) -> None:
        """Have room for a row; where a strategy's scope would make something else of it."""
        while len(self._variables) <= row // _ROWS:
            with tf.init_scope(), tf.device("CPU:0"):
                self._variables.append(own_variable(np.zeros(_ROWS * COLUMNS), tf.float64))

    def clear(self, row: int) -> None:
        """Set a row to zeros, now."""
        place = row % _ROWS * COLUMNS
        with tf.init_scope():
            tf.raw_ops.ResourceScatterUpdate(
                resource=self._variables[row // _ROWS].handle,
                indices=list(range(place, place + COLUMNS)),
                updates=tf.zeros([COLUMNS], tf.float64),
            )

    def write(
        self,
        row: int,
        columns: Mapping[int, Callable[[], tf.Tensor]],
        after: Sequence[Any],
        scatter: Scatter = set_to,
    ) -> None:
        """Let the graph that is being made write into a row.

        Args:
            row: its number.
            columns: what makes the number of each column.
            after: it is made when these tensors exist.
            scatter: what becomes of the number that is there.
        """
        self.reserve(row)
        place = row % _ROWS * COLUMNS
        with tf.control_dependencies(tensors_of(after)), tf.device("CPU:0"):
            values = tf.stack([tf.cast(make(), tf.float64) for make in columns.values()])
            indices = tf.constant([place + column for column in columns], tf.int32)
            written_by_graph(
                self._variables[row // _ROWS],
                lambda handle: scatter(resource=handle, indices=indices, updates=values),
            )

    def read(self) -> np.ndarray:
        """All rows, and some that nobody has written into (rows, `COLUMNS`)."""
        values = [variable.numpy() for variable in self._variables]
        return np.concatenate(values).reshape(-1, COLUMNS)


def tensors_of(values: Sequence[Any]) -> list[tf.Tensor]:
    """What operations can wait for: tensors, also those of sparse and ragged ones."""
    return [t for t in tf.nest.flatten(list(values), expand_composites=True) if tf.is_tensor(t)]
