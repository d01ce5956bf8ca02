"""A table of numbers that graphs write into while they run."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from hvdkit.watch.activity import own_variable, written_by_graph

COLUMNS = 4
RUNS = 0
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
            values = [tf.cast(make(), tf.float64) for make in columns.values()]
            indices = [place + column for column in columns]
            # Each operation takes microseconds: of a single number nothing is stacked.
            updates, where = (values[0], indices[0]) if len(values) == 1 else (values, indices)
            written_by_graph(
                self._variables[row // _ROWS],
                lambda handle: scatter(resource=handle, indices=where, updates=updates),
            )

    def read(self, rows: int | None = None) -> np.ndarray:
        """Rows, and some that nobody has written into (rows, `COLUMNS`).

        Args:
            rows: how many at least, from the first on; None for all.
        """
        needed = len(self._variables) if rows is None else -(-rows // _ROWS)
        values = [
            tf.raw_ops.ReadVariableOp(resource=variable.handle, dtype=tf.float64).numpy()
            for variable in self._variables[:needed]
        ]
        return np.concatenate(values).reshape(-1, COLUMNS)


class RowsOfGraphs:
    """Rows of a table that graphs have, each until it is gone.

    Args:
        table: the table.
        first: the first row that graphs may have.
        forget: called with a row that has become free.
    """

    def __init__(self, table: Table, first: int, forget: Callable[[int], None]) -> None:
        self._table, self._next, self._forget = table, first, forget
        self._free: list[int] = []
        self._runs: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def new(self) -> int:
        """A row of zeros for the graph that is being made."""
        if self._free:
            row = self._free.pop()
            self._table.clear(row)
        else:
            row = self._next
            self._next += 1
        weakref.finalize(tf.compat.v1.get_default_graph(), self._release, row)
        return row

    def of_runs(self) -> int:
        """The row in which the graph that is being made counts how often it has run (`RUNS`).

        It counts once, whoever asks: each operation takes time in each step.
        """
        graph = tf.compat.v1.get_default_graph()
        if graph not in self._runs:
            self._runs[graph] = self.new()
            one = {RUNS: lambda: tf.constant(1.0, tf.float64)}
            self._table.write(self._runs[graph], one, [], scatter=add_to)
        return self._runs[graph]

    def _release(self, row: int) -> None:
        self._forget(row)
        self._free.append(row)


def tensors_of(values: Sequence[Any]) -> list[tf.Tensor]:
    """What operations can wait for: tensors, also those of sparse and ragged ones."""
    return [t for t in tf.nest.flatten(list(values), expand_composites=True) if tf.is_tensor(t)]
