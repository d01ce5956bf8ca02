"""The local replicas of a step: one on each device of `tf.distribute.MirroredStrategy`.

TensorFlow runs a step once for each local device, each in a thread ("replica context"), and lets
the threads meet ("cross-replica context"). A rank talks to other ranks once for all of its devices:
where the threads meet.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import tensorflow as tf

T = TypeVar("T")


def local_replicas() -> int:
    """On how many local devices the step that is traced or run now runs; 1 without a strategy."""
    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def summed_over_replicas(tensors: Sequence[Any]) -> list[Any]:
    """The sum of each tensor over the local replicas; every one of them calls it.

    Args:
        tensors: a tensor, `tf.IndexedSlices` or None each; None on one is None on all.
    """
    there = [tensor for tensor in tensors if tensor is not None]
    if local_replicas() == 1 or not there:
        return list(tensors)
    context = tf.distribute.get_replica_context()
    sums = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, there))
    return [None if tensor is None else next(sums) for tensor in tensors]


def once(function: Callable[[T], T], tensors: T) -> T:
    """What a function makes of some tensors, called once for all local replicas.

    Args:
        function: called where the replicas meet, or at once where there is one only.
        tensors: the same on all replicas, in any structure; the function gets those of the first.

    Returns:
        Its result, on every replica.
    """
    context = tf.distribute.get_replica_context()
    if context is None or local_replicas() == 1:
        return function(tensors)

    def where_they_meet(strategy: Any, given: Any) -> Any:
        return function(
            tf.nest.map_structure(lambda one: strategy.experimental_local_results(one)[0], given)
        )

    result: T = context.merge_call(where_they_meet, args=(tensors,))
    return result


def copies_of(variable: tf.Variable) -> Sequence[tf.Variable]:
    """A variable's copies on the local devices; the variable itself where it is on one."""
    if not isinstance(variable, tf.distribute.DistributedValues):
        return (variable,)
    copies: Sequence[tf.Variable] = variable.values
    return copies


def average_over_replicas(variable: tf.Variable) -> None:
    """Give the copies of a variable on the local devices their mean, where they differ.

    Args:
        variable: of any kind; only the floats of a mirrored one may differ.
    """
    if not variable.dtype.is_floating:
        return
    copies = [copy.numpy() for copy in copies_of(variable)]
    if any((copy != copies[0]).any() for copy in copies):
        variable.assign(sum(copies) / len(copies))


def scope_of(strategy: Any) -> AbstractContextManager[Any]:
    """The scope of a strategy, unless one is entered already."""
    if tf.distribute.has_strategy() or strategy is tf.distribute.get_strategy():
        return contextlib.nullcontext()
    scope: AbstractContextManager[Any] = strategy.scope()
    return scope


__all__ = [
    "average_over_replicas",
    "copies_of",
    "local_replicas",
    "once",
    "scope_of",
    "summed_over_replicas",
]
