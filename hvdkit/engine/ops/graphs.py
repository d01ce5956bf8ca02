"""Collectives in graphs: what they are called between ranks, and that they run.

Horovod tells the operations of a graph apart by their names, and TensorFlow puts name scopes before
a name: those of layers, optimizers and called functions, which count what a process has made
before. So scopes are left out. Within a function names are unique; functions that call each other
may use a name twice, one after the other (`explained` puts them in order).

TensorFlow takes Horovod's operations for functions of their inputs: it leaves out those whose
result nobody uses, computes those of constants once, and merges equal ones. A rank that uses a
result, or that gives no constant, would wait for the others.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

_SCOPE = "hvdkit/"
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.\-]")


@contextlib.contextmanager
def named(name: str) -> Iterator[dict[str, Any]]:
    """While inside, an operation can be made whose name is the same on all ranks.

    Args:
        name: unique in this function, or made so by a number.

    Yields:
        Keyword arguments for Horovod's operation.
    """
    plain = _NOT_IN_A_NAME.sub("_", name).lstrip("_-") or "collective"
    if tf.executing_eagerly():
        yield {"name": plain, "ignore_name_scope": True}
        return
    with tf.name_scope(_SCOPE):  # an absolute scope, in which TensorFlow keeps names unique
        yield {"name": plain, "ignore_name_scope": True}


def not_constant(tensor: tf.Tensor, shape: Sequence[int | None] | None = None) -> tf.Tensor:
    """The tensor; what is computed from it is computed whenever the graph runs.

    Args:
        tensor: any.
        shape: what the graph knows of its shape, if less than it could.
    """
    if tf.executing_eagerly():
        return tensor
    known = tensor.shape if shape is None else shape
    tensor = tf.raw_ops.PlaceholderWithDefault(input=tensor, shape=known)
    # That one holds in the optimization of a graph, but not in that of the function that runs: it
    # computes what has constant inputs when it is made, a Horovod operation as any other, but
    # nothing behind control flow. The way of a branch is free: the tensor is not copied.
    always = tf.raw_ops.PlaceholderWithDefault(input=tf.constant(True), shape=[])
    return tf.raw_ops.Switch(data=tensor, pred=always).output_true


def differentiable(
    collective: Callable[..., Sequence[tf.Tensor]],
    gradient: Callable[..., Sequence[tf.Tensor]],
    tensors: Sequence[tf.Tensor],
) -> list[tf.Tensor]:
    """Apply a collective whose gradient, in a graph, has a name of hvdkit's, too.

    Eagerly operations have no names, and Horovod's own gradients do.

    Args:
        collective: takes the tensors, gives its results.
        gradient: takes the results' gradients, gives those of the tensors.
        tensors: what the collective is applied to.
    """
    if tf.executing_eagerly():
        return list(collective(*tensors))

    @tf.custom_gradient
    def applied(
        *values: tf.Tensor,
    ) -> tuple[list[tf.Tensor], Callable[..., Sequence[tf.Tensor]]]:
        return list(collective(*values)), gradient

    return list(applied(*tensors))
