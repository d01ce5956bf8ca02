"""Training steps that XLA compiles: the reduction stays outside of what is compiled."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from hvdkit.data.batch import ShardedBatch
from hvdkit.data.batch_rows import batch_rows
from hvdkit.engine import logger, topology
from hvdkit.keras_internals import TensorFlowTrainer
from hvdkit.layers.sync_batch_normalization import SyncBatchNormalization
from hvdkit.metrics.rows import TRAINING, rows_of
from hvdkit.metrics.weighted_steps import Step
from hvdkit.optimizers.composition import is_distributed
from hvdkit.state.reachable import leading_optimizer


@contextlib.contextmanager
def reduction_outside(model: Any, step: Step) -> Iterator[Step]:
    """While inside, Keras compiles no step as a whole that talks to other ranks.

    Args:
        model: a model that is compiled with `jit_compile`, in a job of several ranks.
        step: its training step, with anything that hvdkit puts around it.

    Yields:
        The step, of which XLA compiles what it can.
    """
    synchronizes = _has_sync_batch_normalization(model)
    if not synchronizes and not is_distributed(leading_optimizer(model)):
        yield step
        return
    if synchronizes:
        _say_once(model, "it has SyncBatchNormalization layers, which talk to other ranks")
    elif type(model).train_step is not TensorFlowTrainer.train_step:
        _say_once(model, "it has a train_step of its own, which hvdkit can't divide")
    else:
        step = split_at_optimizer(model, step)
    model.jit_compile, compiled = False, model.jit_compile
    try:
        yield step
    finally:
        model.jit_compile = compiled


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
        counted = None if isinstance(batch, ShardedBatch) else rows_of(model, TRAINING)
        with batch_rows(None if counted is None else counted.of_last_batch):
            model.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return logs

    return train_step


def _has_sync_batch_normalization(model: Any) -> bool:
    return any(isinstance(layer, SyncBatchNormalization) for layer in model._flatten_layers())


def _say_once(model: Any, reason: str) -> None:
    if topology.rank() == 0 and not vars(model).get("_hvdkit_said_no_xla"):
        vars(model)["_hvdkit_said_no_xla"] = True
        logger.warning(
            "hvdkit: the training step of %s is not compiled by XLA: %s.", model.name, reason
        )
