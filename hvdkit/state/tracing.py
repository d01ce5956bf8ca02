"""A step that is traced and thrown away: what it uses is then built, and nothing has changed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from hvdkit.data.batch import data_of
from hvdkit.engine.local_replicas import scope_of
from hvdkit.exchange.suspension import without_reduction
from hvdkit.state.reachable import optimizers_of, steps_by_itself


def build_metrics(model: Any, spec: Any) -> None:
    """Make the variables of metrics, most of which Keras makes in the first step.

    Args:
        model: a compiled model that has its variables.
        spec: the type specification of a batch.
    """
    batch = data_of(spec)
    if steps_by_itself(model) and not model.run_eagerly:
        trace_step(model, batch)
        return
    symbolic = keras.tree.map_structure(
        lambda s: keras.KerasTensor(s.shape, keras.backend.standardize_dtype(s.dtype)), batch
    )
    with scope_of(model.distribute_strategy):
        model._symbolic_build(data_batch=symbolic)


def trace_step(model: Any, batch: Any) -> None:
    """Trace a training step; its optimizers are then built with what they are given.

    Args:
        model: a compiled model.
        batch: the type specification of a batch.

    Raises:
        ValueError: the model runs eagerly.
    """
    if model.run_eagerly:
        raise ValueError("it runs eagerly")
    step = tf.function(_step_of(model), autograph=False)
    optimizers = [one.optimizer for one in optimizers_of(model)]
    with without_reduction(), _noting(optimizers) as given:
        step.get_concrete_function(batch)
    for optimizer, variables in zip(optimizers, given, strict=True):
        if variables and not optimizer.built:
            optimizer.build(variables)


def _step_of(model: Any) -> Callable[[Any], Any]:
    """A training step, on each local device where it has several."""
    strategy = model.distribute_strategy
    if strategy.num_replicas_in_sync == 1:
        step: Callable[[Any], Any] = model.train_step
        return step
    return lambda batch: strategy.run(model.train_step, args=(batch,))


@contextlib.contextmanager
def _noting(optimizers: Sequence[Any]) -> Iterator[list[list[Any]]]:
    """Inside, optimizers apply nothing; yields the variables that each is given the first time."""
    given: list[list[Any]] = [[] for _ in optimizers]

    def applies(variables: list[Any]) -> Callable[..., None]:
        def apply(grads: Any, trainable_variables: Any = None) -> None:
            if not variables:
                variables.extend(trainable_variables or [])

        return apply

    for optimizer, variables in zip(optimizers, given, strict=True):
        # Past Keras's attribute tracking.
        vars(optimizer)["apply"] = applies(variables)
    try:
        yield given
    finally:
        for optimizer in optimizers:
            del vars(optimizer)["apply"]
