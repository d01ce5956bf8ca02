"""When the steps of this rank did what: moments that graphs note for those who measure.

A graph runs without Python, so it writes times and sizes into a table of variables. Nothing is
noted, and graphs are as they were, unless somebody measures (`StepTimes.noted`).

Times are seconds since 1970, as of `time.time()`. On a GPU they are those at which the host has
given the work to the device, which may do it later.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from hvdkit.watch.activity import own_variable
from hvdkit.watch.graph_numbers import bytes_known, bytes_of, now, number
from hvdkit.watch.moments import Moments, Norms, Span
from hvdkit.watch.table import COLUMNS, RUNS, RowsOfGraphs, Table, add_to, raise_to

_BEGUN, _DONE, _BYTES, _TOKENS = range(COLUMNS)
# Rows that are no collectives: of the batch (how many so far in the place of done, rows in that of
# bytes, and tokens), and of the gradients (exchanged in the place of done).
_BATCH, _GRADIENTS = range(2)
_FIRST = 2
# The columns of a row of norms: the sum of their squares, how many they are, and how many of them
# are not finite, which would spoil the sum for good.
_SQUARES, _COUNT, _NOT_FINITE = range(3)
# Of eager collectives between two readings; what is older is forgotten.
_SPANS = 4096


_beside = contextvars.ContextVar("hvdkit_beside_backward", default=False)
_compiled = contextvars.ContextVar("hvdkit_compiled", default=False)


class _Note(NamedTuple):
    """A collective of a graph.

    Attributes:
        name: what it is, in words.
        beside: whether the backward pass may go on meanwhile.
        bytes: what this rank gives to it each time; None where only the graph knows.
        runs: the row that counts how often the graph has run.
    """

    name: str
    beside: bool
    bytes: float | None
    runs: int


class StepTimes:
    """The moments of one rank.

    Attributes:
        on: whether functions that are traced now note moments.
        spans_so_far: how many collectives outside of graphs have been noted.
        begun: when Keras called the training function last, in seconds since 1970.
        done: when that call was done.
    """

    def __init__(self) -> None:
        self.on = False
        self._users = 0
        self._table = Table()
        self._wants_norm: tf.Variable | None = None
        self._norm_is_wanted = False
        self._rows = RowsOfGraphs(self._table, _FIRST, self._forget)
        self._notes: dict[int, _Note] = {}
        # Each call of `gradients_are_exchanged` in a graph, or in an eager step, has a row.
        self._norms: set[int] = set()
        self._eager_norms: list[np.ndarray] = []
        self._eager_calls = 0
        self._eager = np.zeros((_FIRST, COLUMNS))
        self._spans: deque[Span] = deque(maxlen=_SPANS)
        self.spans_so_far = 0
        self.begun = self.done = 0.0
        self._before = self._of_call = np.zeros(COLUMNS)
        self._for_norm: set[int] = set()
        self._sent: dict[str, float] = {}

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """While inside, functions that are traced, and collectives in Python, note moments."""
        self._users += 1
        self.on = True
        if self._wants_norm is None:
            with tf.init_scope(), tf.device("CPU:0"):
                self._wants_norm = own_variable(False, tf.bool)
            self._table.reserve(0)
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

    def call_begins(self) -> None:
        """Keras calls the training function now, after all callbacks."""
        self._before = self._batches()
        self.begun = time.time()

    def call_ends(self) -> None:
        """It has returned; callbacks that train other models have not run yet."""
        self.done = time.time()
        self._of_call = self._batches() - self._before

    def compute_norm(self, reader: object, wanted: bool) -> None:
        """Say whether the next steps compute the norm of their gradients for a reader."""
        assert self._wants_norm is not None
        (self._for_norm.add if wanted else self._for_norm.discard)(id(reader))
        if self._norm_is_wanted != bool(self._for_norm):
            self._norm_is_wanted = bool(self._for_norm)
            self._wants_norm.assign(self._norm_is_wanted)

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
            self._eager[_BATCH] += (0, 1, float(rows), float(tokens))
            self._eager[_BATCH, _BEGUN] = time.time()
            self._eager_calls = 0
            return
        self._table.write(_BATCH, {_BEGUN: now}, batch)
        sizes = {_DONE: number(1), _BYTES: number(rows), _TOKENS: number(tokens)}
        self._table.write(_BATCH, sizes, [], scatter=add_to)

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
        assert self._wants_norm is not None
        if tf.executing_eagerly():
            if self._norm_is_wanted:
                squares = float(squared_norm())
                finite = math.isfinite(squares)
                if self._eager_calls == len(self._eager_norms):
                    self._eager_norms.append(np.zeros(COLUMNS))
                norms = self._eager_norms[self._eager_calls]
                norms += (squares if finite else 0, 1, not finite, 0)
            self._eager_calls += 1
            return
        wanted = self._wants_norm.read_value()
        squares = tf.cond(
            wanted,
            lambda: tf.cast(squared_norm(), tf.float64),
            lambda: tf.constant(0.0, tf.float64),
        )
        finite = tf.math.is_finite(squares)
        norm = {
            _SQUARES: lambda: tf.where(finite, squares, 0.0),
            _COUNT: number(wanted),
            _NOT_FINITE: number(~finite),
        }
        row = self._rows.new()
        self._norms.add(row)
        self._table.write(row, norm, [], scatter=add_to)

    def _at_gradients(self, column: int, gradients: Sequence[tf.Tensor]) -> None:
        if not self.notes_now:
            return
        if tf.executing_eagerly():
            self._eager[_GRADIENTS, column] = time.time()
        else:
            self._table.write(_GRADIENTS, {column: now}, gradients, scatter=raise_to)

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
        row, size = self._rows.new(), bytes_known(tensors)
        self._notes[row] = _Note(name, _beside.get(), size, self._rows.of_runs())
        self._table.write(row, {_BEGUN: now}, tensors)
        if size is None:
            sent = bytes_of(tensors)
            self._table.write(row, {_BYTES: lambda: sent}, tensors, scatter=add_to)
        return row

    def ends(self, row: int | None, results: Sequence[tf.Tensor]) -> None:
        """Let a graph note that a collective is done when its results exist."""
        if row is not None:
            self._table.write(row, {_DONE: now}, results)

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
            self._spans.append(Span(name, begun, time.time(), sent, beside=False))
            self.spans_so_far += 1
            self.sends(name, sent)

    def sends(self, name: str, sent: float) -> None:
        """Count bytes that this rank gives to others without waiting."""
        if self.on:
            self._sent[name] = self._sent.get(name, 0.0) + sent

    def moments(self, spans_before: int) -> Moments:
        """What has been noted so far, with the spans after the first so many; for a `Reader`."""
        known = self._table.read()
        batches, rows, tokens = self._of_call[[_DONE, _BYTES, _TOKENS]]
        batch, gradients = np.maximum(known[:_FIRST], self._eager)
        collectives, sent = [], dict(self._sent)
        rows_now = known.tolist()
        for row, note in list(self._notes.items()):
            begun, done, given, _ = rows_now[row]
            if note.bytes is not None:
                given = note.bytes * rows_now[note.runs][RUNS]
            collectives.append(Span(note.name, begun, done, given, note.beside))
            sent[note.name] = sent.get(note.name, 0.0) + given
        norms = {-1 - call: Norms(*row[:3]) for call, row in enumerate(self._eager_norms)}
        norms |= {row: Norms(*known[row, :3]) for row in list(self._norms)}
        new = min(self.spans_so_far - spans_before, len(self._spans))
        spans = list(self._spans)[len(self._spans) - new :]
        return Moments(
            batch=float(batch[_BEGUN]),
            batches=float(batches),
            rows=float(rows),
            tokens=float(tokens),
            gradients=float(gradients[_BEGUN]),
            exchanged=float(gradients[_DONE]),
            norms=norms,
            collectives=collectives,
            sent=sent,
            spans=spans,
        )

    def _batches(self) -> np.ndarray:
        return np.asarray(self._table.read(1)[_BATCH] + self._eager[_BATCH])

    def _forget(self, row: int) -> None:
        self._notes.pop(row, None)
        self._norms.discard(row)


step_times = StepTimes()
