"""What one rank did since the last sample, as a row of numbers that all ranks exchange."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from enum import IntEnum, auto

import numpy as np
import tensorflow as tf

from hvdkit.engine import ProcessSet, Sum, ops, topology
from hvdkit.monitoring.split import Split, split
from hvdkit.watch.moments import Moments, Norms

METRICS = 24
"""Metrics that a row has room for, each with a total and a count; of more, the first by name."""


class Column(IntEnum):
    """The numbers of a row, before those of the metrics; NaN for what is not known."""

    STEPS = 0
    SECONDS = auto()
    SPLIT_STEPS = auto()
    DATA = auto()
    COLLECTIVES = auto()
    COMPUTE = auto()
    REST = auto()
    ROWS = auto()
    TOKENS = auto()
    SENT = auto()
    SQUARED_NORM = auto()
    NORMS = auto()
    HOST_MEMORY = auto()
    HOST_MEMORY_PEAK = auto()
    DEVICE_MEMORY = auto()
    DEVICE_MEMORY_PEAK = auto()
    JOULES = auto()
    FLOPS = auto()
    PEAK_FLOPS = auto()
    METRIC_NAMES = auto()


WIDTH = len(Column) + 2 * METRICS


class Window:
    """The steps of this rank since the last sample.

    Args:
        moments: what had been noted before the first of them.

    Attributes:
        steps: how many.
        seconds: how long they took, one from the end of the other.
        rows: rows that this rank has trained on.
    """

    def __init__(self, moments: Moments) -> None:
        self.steps = 0
        self.seconds = 0.0
        self.rows = 0.0
        self._tokens = 0.0
        self._splits: list[Split] = []
        self._start = self._latest = moments

    def add(self, steps: int, moments: Moments, last: float, begun: float, done: float) -> None:
        """Count a call of the training function.

        Args:
            steps: how many steps it made.
            moments: what had been noted after it.
            last: when the call before it was done, in seconds since 1970.
            begun: when it began.
            done: when it was done.
        """
        self.steps += steps
        self.seconds += done - last
        self.rows += moments.rows
        self._tokens += moments.tokens
        self._latest = moments
        # Moments are those of the last step of a call.
        parts = split(moments, last, begun, done) if steps == 1 else None
        if parts is not None:
            self._splits.append(parts)

    @property
    def sent(self) -> dict[str, float]:
        """Bytes given to each collective in a step."""
        before, steps = self._start.sent, max(self.steps, 1)
        given = {
            name: (total - before.get(name, 0.0)) / steps
            for name, total in self._latest.sent.items()
        }
        return {name: size for name, size in given.items() if size > 0}

    @property
    def _squared_norm(self) -> float | None:
        """This rank's share of the squared norm, of all optimizers together; None for no norm."""
        shares = []
        for whose, now in self._latest.norms.items():
            before = self._start.norms.get(whose, Norms(0, 0, 0))
            if now.not_finite > before.not_finite:
                return math.nan
            if now.number > before.number:
                shares.append((now.squares - before.squares) / (now.number - before.number))
        return sum(shares) if shares else None

    def row(self, readings: Mapping[Column, float], means: Mapping[str, np.ndarray]) -> np.ndarray:
        """The row of this rank.

        Args:
            readings: of the machine.
            means: total and count of each metric that is a mean, by name.

        Returns:
            `WIDTH` numbers (float64).
        """
        row = np.zeros(WIDTH)
        row[: len(Column)] = np.nan
        parts, squared_norm = self._splits, self._squared_norm
        known = {
            Column.STEPS: self.steps,
            Column.SECONDS: self.seconds,
            Column.SPLIT_STEPS: len(parts),
            Column.DATA: sum(s.data for s in parts),
            Column.COLLECTIVES: sum(s.collectives for s in parts),
            Column.COMPUTE: sum(s.compute for s in parts),
            Column.REST: sum(s.rest for s in parts),
            Column.ROWS: self.rows,
            Column.TOKENS: self._tokens,
            Column.SENT: sum(self.sent.values()) * self.steps,
            Column.SQUARED_NORM: squared_norm or 0.0,
            Column.NORMS: float(squared_norm is not None),
            Column.METRIC_NAMES: float(zlib.crc32("\n".join(metric_names(means)).encode())),
            **readings,
        }
        for column, value in known.items():
            row[column] = value
        for i, name in enumerate(metric_names(means)):
            row[len(Column) + 2 * i : len(Column) + 2 * i + 2] = means[name]
        return row


def metric_names(means: Mapping[str, np.ndarray]) -> list[str]:
    """The metrics whose totals a row holds, in their order."""
    return sorted(means)[:METRICS]


def exchanged(row: np.ndarray, ranks: ProcessSet | None) -> np.ndarray:
    """The rows of all ranks, in rank order; each of them calls it.

    Horovod answers with zeros for a rank that has come to the end of its data, in all-reduces only.

    Args:
        row: this rank's.
        ranks: those that take part; None for this one alone.
    """
    if ranks is None or topology.process_set_size(ranks) == 1:
        return row[np.newaxis]
    members = topology.process_set_ranks(ranks)
    rows = np.zeros((len(members), len(row)))
    rows[members.index(topology.rank())] = row
    with tf.init_scope():
        total = ops.allreduce(tf.constant(rows), Sum, name="hvdkit.monitor", process_set=ranks)
    return np.asarray(total)
