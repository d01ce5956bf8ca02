"""How many rows a model's steps have seen, as weights of what is no metric."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from hvdkit.engine import is_initialized, several_ranks
from hvdkit.engine.local_replicas import once, summed_over_replicas

TRAINING = "training"
TEST = "test"


class Rows:
    """Counts the rows of a kind of step (of `fit`, or of `evaluate`).

    Attributes:
        last: rows of the last batch, 0 if it was padding.
        total: rows of the pass (an epoch, an `evaluate`) that was ended last.
    """

    def __init__(self) -> None:
        self._last = tf.Variable(0.0, trainable=False)
        self._sum = tf.Variable(0.0, trainable=False)
        self.last = 0.0
        self.total = 0.0

    def count(self, batch: Any, is_real: tf.Tensor | bool = True) -> tf.Tensor:
        """Count a batch; a part of the step.

        Args:
            batch: what Keras's step takes.
            is_real: False if the batch is padding.

        Returns:
            Its rows, a float32 scalar; of several local replicas those of all of them.
        """
        [rows] = summed_over_replicas([tf.where(is_real, tf.cast(rows_in(batch), tf.float32), 0.0)])

        def note(counted: tf.Tensor) -> tf.Tensor:
            self._last.assign(counted)
            self._sum.assign_add(counted)
            return counted

        return once(note, rows)

    @property
    def of_last_batch(self) -> tf.Tensor:
        """Rows of the batch that was counted last, in a graph or eagerly (float32 scalar)."""
        return self._last.read_value()

    def end_pass(self) -> None:
        """Note what was counted, and start from zero."""
        self.last, self.total = float(self._last.numpy()), float(self._sum.numpy())
        self._last.assign(0.0)
        self._sum.assign(0.0)


def new_rows(model: Any, kind: str) -> Rows | None:
    """A counter for a new step function of a model; None where nobody will ask.

    Args:
        model: the model.
        kind: `TRAINING` or `TEST`.
    """
    several_devices = model.distribute_strategy.num_replicas_in_sync > 1
    if not is_initialized() or (several_devices and not several_ranks()):
        return None
    rows = Rows()
    vars(model).setdefault("_hvdkit_rows", {})[kind] = rows
    return rows


def rows_of(model: Any, kind: str) -> Rows | None:
    """The counter of a model's steps of a kind, if there is one."""
    counters: dict[str, Rows] = vars(model).get("_hvdkit_rows", {})
    return counters.get(kind)


def end_pass(model: Any, kind: str) -> None:
    """Let what a model's steps of a kind count from now on belong to the next pass."""
    rows = rows_of(model, kind)
    if rows is not None:
        rows.end_pass()


def rows_in(batch: Any) -> Any:
    """The rows of a batch, an integer scalar; 1 for what has none."""
    first = next((leaf for leaf in keras.tree.flatten(batch) if leaf is not None), 0)
    if isinstance(first, tf.RaggedTensor):
        return first.nrows()
    shape = tf.shape(first)
    return 1 if shape.shape[0] == 0 else shape[0]
