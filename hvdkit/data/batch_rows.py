"""The rows of the batch whose step is being traced or run, for an exchange that weighs by them."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import tensorflow as tf

_current: contextvars.ContextVar[tf.Tensor | None] = contextvars.ContextVar(
    "hvdkit_batch_rows", default=None
)


def current_rows() -> tf.Tensor | None:
    """The rows of this rank's batch (float32 scalar); None where nobody knows them.

    Known are those of `fit` with data that the ranks read by themselves. The rows of data from
    `hvd.shard` are weighed in the loss already (`hvdkit.data.batch_scale`), so they count no more.
    """
    return _current.get()


@contextlib.contextmanager
def batch_rows(rows: tf.Tensor | None) -> Iterator[None]:
    """Set the rows for the training step inside the `with` block."""
    token = _current.set(rows)
    try:
        yield
    finally:
        _current.reset(token)
