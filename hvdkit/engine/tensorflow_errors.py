"""hvdkit's errors where Horovod raises TensorFlow's: they are both, so scripts catch either."""

from __future__ import annotations

import tensorflow as tf
from horovod.common.exceptions import HorovodInternalError

from hvdkit import errors


class RankMismatchError(errors.RankMismatchError, tf.errors.FailedPreconditionError):
    """The ranks do not hold the same thing where they must; raised alike on every rank."""

    def __init__(self, message: str) -> None:
        tf.errors.FailedPreconditionError.__init__(self, None, None, message)


class CollectiveError(errors.CollectiveError, HorovodInternalError, tf.errors.UnknownError):
    """A collective ended without a result: another rank left the job, or did not come in time."""

    def __init__(self, message: str) -> None:
        tf.errors.UnknownError.__init__(self, None, None, message)


class InvalidArgumentError(ValueError, tf.errors.InvalidArgumentError):
    """An argument of a collective does not fit the ranks."""

    def __init__(self, message: str) -> None:
        tf.errors.InvalidArgumentError.__init__(self, None, None, message)
