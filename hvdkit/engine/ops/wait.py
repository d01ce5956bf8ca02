"""Ranks that wait for each other."""

from __future__ import annotations

import tensorflow as tf

from hvdkit.engine.error_messages import explained
from hvdkit.engine.native import ProcessSet, Sum, global_process_set, mpi_ops, require_initialized
from hvdkit.engine.ops.reduce import allreduce


def barrier(process_set: ProcessSet = global_process_set) -> None:
    """Wait until every rank of `process_set` has come here."""
    require_initialized("hvd.barrier()")
    with tf.init_scope():
        allreduce(tf.zeros([], tf.int32), Sum, name="hvdkit.barrier", process_set=process_set)


def join() -> int:
    """Say that this rank has no more data, and wait for the others.

    Until then the rank takes part in the others' allreduces with zeros.

    Returns:
        The last rank that joined.
    """
    require_initialized("hvd.join()")
    # Horovod's operation has no inputs and is not marked as stateful, so TensorFlow runs it once
    # and keeps the result. In a new function it runs again. Called as a concrete one, it is not
    # taken for a function that is traced again and again.
    with tf.init_scope(), explained("join"):
        return int(tf.function(lambda: mpi_ops.join()).get_concrete_function()())
