"""The weight of a rank's shard of a short global batch.

When data does not divide, the last global batch has R rows, of which this rank has R_r. Keras
averages the loss over R_r rows and the optimizer averages over N ranks, so the loss has to be
multiplied by N R_r / R to give the average over R rows. In a full batch that is 1.

The training step enters the scope while it is traced; the optimizer finds the factor here.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterable, Iterator

import tensorflow as tf


class BatchScale:
    """A factor for the loss, and for which optimizers the loss has been multiplied by it.

    An optimizer whose `scale_loss` was not called multiplies its gradients instead.

    Attributes:
        value: float32 scalar.
    """

    def __init__(self, value: tf.Tensor) -> None:
        self.value = value
        self._used_for: set[int] = set()

    def scaled(self, loss: tf.Tensor, optimizers: Iterable[object]) -> tf.Tensor:
        """The loss times the factor, on behalf of the optimizers that will apply its gradient."""
        self._used_for.update(id(optimizer) for optimizer in optimizers)
        return loss * tf.cast(self.value, loss.dtype)

    def used_for(self, optimizer: object) -> bool:
        """Whether the loss of this optimizer has been multiplied."""
        return id(optimizer) in self._used_for

    @property
    def is_used(self) -> bool:
        """Whether the loss of any optimizer has been multiplied."""
        return bool(self._used_for)

    def is_at_hand(self) -> bool:
        """Whether the factor can be used in what is being traced, or run, now.

        A function inside the step may be traced once, and used for other steps too.
        """
        if tf.executing_eagerly():
            return not tf.is_symbolic_tensor(self.value)
        return getattr(self.value, "graph", None) is tf.compat.v1.get_default_graph()

    @property
    def is_real(self) -> tf.Tensor:
        """Whether the rank's batch holds real rows (bool scalar); False for padding."""
        return self.value > 0


_current: contextvars.ContextVar[BatchScale | None] = contextvars.ContextVar(
    "hvdkit_batch_scale", default=None
)


def current_scale() -> BatchScale | None:
    """The scale of the batch whose step is being traced or run; None for a full batch."""
    return _current.get()


@contextlib.contextmanager
def batch_scale(value: tf.Tensor) -> Iterator[BatchScale]:
    """Set the scale for the training step inside the `with` block."""
    scale = BatchScale(value)
    token = _current.set(scale)
    try:
        yield scale
    finally:
        _current.reset(token)
