"""What hvdkit puts around a Keras training or test step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from hvdkit.data.batch import ShardedBatch
from hvdkit.optimizers.batch_scale import BatchScale, batch_scale

Step = Callable[[Any], Any]


def with_sharded_batches(model: keras.Model, step: Step) -> Step:
    """Let a step take a `ShardedBatch`: weigh its loss, and keep padding out of the metrics.

    Args:
        model: the model whose step it is.
        step: Keras's (or the model's own) `train_step` or `test_step`.

    Returns:
        A step that also takes plain batches, which it passes on as they are.
    """

    def step_on(batch: Any) -> Any:
        if not isinstance(batch, ShardedBatch):
            return step(batch)
        with batch_scale(batch.scale) as scale, _weighed_metrics(model, scale, batch.data):
            return step(batch.data)

    return step_on


@contextlib.contextmanager
def _weighed_metrics(model: keras.Model, scale: BatchScale, data: Any) -> Iterator[None]:
    """Put the metrics back as they were if the batch is padding.

    Keras tracks the loss of each output as a mean over rows, or, where it does not know the
    number of rows while tracing, as a mean over batches: there the batch counts its scale.
    """
    before = {id(v): tf.identity(v.value) for v in _metric_variables(model)}
    yield
    rows_known = keras.tree.flatten(data)[0].shape[0] is not None
    losses = model._compile_loss
    by_batch = [] if losses is None or rows_known else losses.variables
    by_batch_ids = {id(variable) for variable in by_batch}
    for variable in _metric_variables(model):
        # A metric that is built in its first step starts from zeros.
        old = before.get(id(variable), tf.zeros_like(variable.value))
        if id(variable) in by_batch_ids:
            weight = tf.cast(scale.value, old.dtype)
            variable.assign(old + weight * (variable.value - old))
        else:
            variable.assign(tf.where(scale.is_real, variable.value, old))


def _metric_variables(model: keras.Model) -> list[keras.Variable]:
    return [variable for metric in model.metrics for variable in metric.variables]


def split_at_optimizer(model: keras.Model, step: Step) -> Step:
    """A training step whose forward and backward passes are compiled by XLA, and no more.

    Horovod's operations do not compile under XLA, so the optimizer, which reduces, has to stay
    outside. While the step is compiled, the optimizer's `apply_gradients` takes the gradients
    out; they are applied after it.

    Args:
        model: a model that has Keras's own `train_step`, which applies gradients once.
        step: the step, with anything that hvdkit puts around it.
    """
    variables: list[Any] = []

    def forward_backward(batch: Any) -> tuple[Any, list[Any]]:
        gradients: list[Any] = []
        variables.clear()

        def take(pairs: Any) -> None:
            for gradient, variable in pairs:
                gradients.append(gradient)
                variables.append(variable)

        # An attribute of the instance hides the method; past Keras's attribute tracking.
        vars(model.optimizer)["apply_gradients"] = take
        try:
            logs = step(batch)
        finally:
            del vars(model.optimizer)["apply_gradients"]
        return logs, gradients

    compiled = tf.function(forward_backward, jit_compile=True, reduce_retracing=True)

    def train_step(batch: Any) -> Any:
        logs, gradients = compiled(batch)
        model.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return logs

    return train_step
