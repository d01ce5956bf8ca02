"""When the steps of this rank did what: moments that graphs note for those who measure.

A graph runs without Python, so it writes times and sizes into a table of variables. What runs
eagerly is noted in Python. Nothing is noted, and graphs are as they were, unless somebody measures
(`StepTimes.noted`).

Times are seconds since 1970, as of `time.time()`. On a GPU they are those at which the host has
given the work to the device, which may do it later.
"""

from __future__ import annotations

import contextlib
import contextvars
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from hvdkit.watch.activity import in_no_order, own_variable, written_by_graph
from hvdkit.watch.slices import COLLECTIVES, Slice, notes

_ROWS = 64  # of one table
_COLUMNS = 4
_BEGUN, _DONE, _BYTES, _TIMES = range(_COLUMNS)
# Two rows that are no collectives: of the batch (rows and tokens in the place of bytes and times),
# and of the gradients (exchanged in the place of done, their squared norm in that of bytes).
_BATCH, _GRADIENTS = 0, 1
# Of eager collectives between two readings; what is older is forgotten.
_SPANS = 4096


_beside = contextvars.ContextVar("hvdkit_beside_backward", default=False)
_compiled = contextvars.ContextVar("hvdkit_compiled", default=False)


class Span(NamedTuple):
    """A collective, the last time that it ran or each time.

    Attributes:
        name: what it is, as messages name it, such as "allreduce 'adam/bucket0'".
        begun: when this rank gave its part.
        done: when it had the result; before `begun` where it has not yet.
        sent: bytes that this rank gave.
        beside: whether the backward pass may go on meanwhile.
    """

    name: str
    begun: float
    done: float
    sent: float
    beside: bool


@dataclass(frozen=True)
class Moments:
    """What has been noted on this rank up to now.

    Attributes:
        batch: when the last batch was there; 0 if that is not noted.
        rows: rows of all batches so far; padding is none.
        tokens: tokens of all batches so far, where rows are sequences of integers.
        gradients: when all gradients of the last update existed; 0 for none.
        exchanged: when all of them had been exchanged; 0 for none.
        squared_norm: this rank's share of the squared norms of the exchanged gradients, added up
            over all updates so far for which `set_wants_norm` was on.
        collectives: those in graphs, each the last time it ran.
        sent: bytes given to each collective so far, by name, those of Python included.
        spans: collectives outside of graphs, each time, since the last `read`.
    """

    batch: float
    rows: float
    tokens: float
    gradients: float
    exchanged: float
    squared_norm: float
    collectives: Sequence[Span]
    sent: dict[str, float]
    spans: Sequence[Span]


class _Note(NamedTuple):
    """Where a collective of a graph writes."""

    row: int
    name: str
    beside: bool


class StepTimes:
    """The moments of one rank.

    Attributes:
        on: whether functions that are traced now note moments.
    """

    def __init__(self) -> None:
        self.on = False
        self._users = 0
        self._tables: list[tf.Variable] = []
        self._wants_norm: tf.Variable | None = None
        self._notes: list[_Note] = []
        self._eager = np.zeros((2, _COLUMNS))
        self._spans: deque[Span] = deque(maxlen=_SPANS)
        self._sent: dict[str, float] = {}

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """While inside, functions that are traced, and collectives in Python, note moments."""
        self._users += 1
        self.on = True
        if self._wants_norm is None:
            with tf.init_scope(), tf.device("CPU:0"):
                self._wants_norm = own_variable(False, tf.bool)
            self._row_of_table(0)
        try:
            yield
        finally:
            self._users -= 1
            self.on = self._users > 0

    @contextlib.contextmanager
    def not_noted(self) -> Iterator[None]:
        """While inside, a function is traced that XLA compiles: it has no clock."""
        token = _compiled.set(True)
        try:
            yield
        finally:
            _compiled.reset(token)

    @contextlib.contextmanager
    def beside_backward(self) -> Iterator[None]:
        """While inside, the backward pass may go on while a collective runs."""
        token = _beside.set(True)
        try:
            yield
        finally:
            _beside.reset(token)

    @property
    def notes_now(self) -> bool:
        """Whether what is traced, or runs, now notes moments."""
        return self.on and not _compiled.get()

    def set_wants_norm(self, wanted: bool) -> None:
        """Say whether the next steps compute the norm of their gradients."""
        assert self._wants_norm is not None
        self._wants_norm.assign(wanted)

    def batch_is_there(self, batch: Sequence[Any], rows: Any, tokens: Any) -> None:
        """Note that a step has its batch; a part of the step.

        Args:
            batch: its tensors.
            rows: how many rows count, a number or scalar.
            tokens: how many tokens they have; 0 for none.
        """
        if not self.notes_now:
            return
        if tf.executing_eagerly():
            self._eager[_BATCH] += (0, 0, float(rows), float(tokens))
            self._eager[_BATCH, _BEGUN] = time.time()
            return
        self._write(_BATCH, {_BEGUN: _now}, batch)
        sizes = {_BYTES: _number(rows), _TIMES: _number(tokens)}
        self._write(_BATCH, sizes, [], scatter=tf.raw_ops.ResourceScatterAdd)

    def gradients_are_there(self, gradients: Sequence[tf.Tensor]) -> None:
        """Note that all gradients of an optimizer exist; the last of several optimizers counts."""
        self._at_gradients(_BEGUN, gradients)

    def gradients_are_exchanged(
        self, gradients: Sequence[tf.Tensor], squared_norm: Callable[[], tf.Tensor]
    ) -> None:
        """Note that all gradients of an optimizer are exchanged.

        Args:
            gradients: the exchanged ones.
            squared_norm: computes this rank's share of their squared norm, where it is wanted.
        """
        self._at_gradients(_DONE, gradients)
        if not self.notes_now:
            return
        if tf.executing_eagerly():
            if self._wants_norm is not None and bool(self._wants_norm.numpy()):
                self._eager[_GRADIENTS, _BYTES] += float(squared_norm())
            return
        assert self._wants_norm is not None
        norm = tf.cond(
            self._wants_norm.read_value(),
            lambda: tf.cast(squared_norm(), tf.float64),
            lambda: tf.constant(0.0, tf.float64),
        )
        # Optimizers inside a `MultiOptimizer` add up.
        self._write(_GRADIENTS, {_BYTES: lambda: norm}, [], scatter=tf.raw_ops.ResourceScatterAdd)

    def _at_gradients(self, column: int, gradients: Sequence[tf.Tensor]) -> None:
        if not self.notes_now:
            return
        if tf.executing_eagerly():
            self._eager[_GRADIENTS, column] = time.time()
        else:
            last = tf.raw_ops.ResourceScatterMax
            self._write(_GRADIENTS, {column: _now}, gradients, scatter=last)

    def begins(self, name: str, tensors: Sequence[tf.Tensor]) -> int | None:
        """Let a graph note that a collective begins when its inputs exist.

        Args:
            name: the collective, in words.
            tensors: what this rank gives to it.

        Returns:
            What `ends` needs to be told; None where nothing is noted.
        """
        if not self.notes_now:
            return None
        row = 2 + len(self._notes)
        self._notes.append(_Note(row, name, _beside.get()))
        self._write(row, {_BEGUN: _now}, tensors)
        sent = _bytes_of(tensors)
        self._write(
            row,
            {_BYTES: lambda: sent, _TIMES: _number(1)},
            tensors,
            scatter=tf.raw_ops.ResourceScatterAdd,
        )
        return row

    def ends(self, row: int | None, results: Sequence[tf.Tensor]) -> None:
        """Let a graph note that a collective is done when its results exist."""
        if row is not None:
            self._write(row, {_DONE: _now}, results)

    @contextlib.contextmanager
    def span(self, name: str, sent: float) -> Iterator[None]:
        """Note a collective that Python runs, and waits for.

        Args:
            name: the collective, in words.
            sent: bytes that this rank gives.
        """
        begun = time.time()
        yield
        if self.on:
            span = Span(name, begun, time.time(), sent, beside=False)
            self._spans.append(span)
            notes.add(Slice(COLLECTIVES, name, span.begun, span.done, {"bytes": int(sent)}))
            self.sends(name, sent)

    def sends(self, name: str, sent: float) -> None:
        """Count bytes that this rank gives to others without waiting."""
        if self.on:
            self._sent[name] = self._sent.get(name, 0.0) + sent

    def read(self) -> Moments:
        """What has been noted so far; the next call gets the spans from here on."""
        moments = self.look()
        self._spans.clear()
        return moments

    def look(self) -> Moments:
        """What has been noted so far, which leaves all of it to `read`."""
        table = np.concatenate([variable.numpy() for variable in self._tables] or [np.zeros(0)])
        table = table.reshape(-1, _COLUMNS)
        known = np.zeros((max(len(table), 2), _COLUMNS))
        known[: len(table)] = table
        known[:2, [_BYTES, _TIMES]] += self._eager[:, [_BYTES, _TIMES]]
        times = np.maximum(known[:2, [_BEGUN, _DONE]], self._eager[:, [_BEGUN, _DONE]])
        collectives, sent = [], dict(self._sent)
        for row, name, beside in self._notes:
            begun, done, given = (float(value) for value in known[row, :3])
            collectives.append(Span(name, begun, done, given, beside))
            sent[name] = sent.get(name, 0.0) + given
        return Moments(
            batch=float(times[_BATCH, 0]),
            rows=float(known[_BATCH, _BYTES]),
            tokens=float(known[_BATCH, _TIMES]),
            gradients=float(times[_GRADIENTS, 0]),
            exchanged=float(times[_GRADIENTS, 1]),
            squared_norm=float(known[_GRADIENTS, _BYTES]),
            collectives=collectives,
            sent=sent,
            spans=list(self._spans),
        )

    def _write(
        self,
        row: int,
        columns: dict[int, Callable[[], tf.Tensor]],
        after: Sequence[Any],
        scatter: Callable[..., tf.Operation] = tf.raw_ops.ResourceScatterUpdate,
    ) -> None:
        """Let the graph that is being made write into a row, once some tensors exist."""
        table, place = self._row_of_table(row)
        with tf.control_dependencies(_tensors(after)), tf.device("CPU:0"):
            values = [tf.cast(value(), tf.float64) for value in columns.values()]
            indices = tf.constant([place + column for column in columns], tf.int32)
            written_by_graph(
                table,
                lambda handle: scatter(resource=handle, indices=indices, updates=tf.stack(values)),
            )

    def _row_of_table(self, row: int) -> tuple[tf.Variable, int]:
        """The variable that holds a row, and where in it the row begins."""
        while len(self._tables) <= row // _ROWS:
            with tf.init_scope(), tf.device("CPU:0"):
                self._tables.append(own_variable(np.zeros(_ROWS * _COLUMNS), tf.float64))
        return self._tables[row // _ROWS], row % _ROWS * _COLUMNS


def _now() -> tf.Tensor:
    now = tf.timestamp()
    in_no_order(now.op)
    return now


def _number(value: Any) -> Callable[[], tf.Tensor]:
    return lambda: tf.cast(value, tf.float64)


def _tensors(values: Sequence[Any]) -> list[tf.Tensor]:
    """What operations can wait for."""
    return [t for t in tf.nest.flatten(list(values), expand_composites=True) if tf.is_tensor(t)]


def _bytes_of(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Bytes of tensors, of which the graph may not know the shapes."""
    sizes = [
        tf.cast(tf.size(tensor, tf.int64) * tensor.dtype.size, tf.float64)
        for tensor in _tensors(tensors)
    ]
    return tf.add_n(sizes) if sizes else tf.constant(0.0, tf.float64)


step_times = StepTimes()
