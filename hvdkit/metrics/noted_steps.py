"""Training steps that note when they have their batch, for those who measure them."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from hvdkit.data.batch import ShardedBatch, data_of
from hvdkit.metrics.rows import rows_in
from hvdkit.metrics.weighted_steps import Step
from hvdkit.watch.step_times import step_times

_NOTES = "_hvdkit_notes_moments"
_INPUTS = "_hvdkit_inputs"


def with_moments(model: Any, step: Step) -> Step:
    """A training step that notes when its batch is there, and how large it is.

    Args:
        model: whose step it is.
        step: the step, which XLA does not compile as a whole.
    """
    vars(model)[_NOTES] = step_times.on

    def noted(batch: Any) -> Any:
        if step_times.notes_now:
            tensors = [leaf for leaf in keras.tree.flatten(batch) if leaf is not None]
            inputs = _inputs(data_of(batch))
            vars(model)[_INPUTS] = keras.tree.map_structure(_spec, inputs)
            step_times.batch_is_there(tensors, _rows_that_count(batch), _tokens(inputs))
        return step(batch)

    return noted


def without_moments(model: Any, step: Step) -> Step:
    """A training step that XLA compiles as a whole, which can't note anything."""
    vars(model)[_NOTES] = True

    def silent(batch: Any) -> Any:
        with step_times.not_noted():
            return step(batch)

    return silent


def notes_moments(model: Any) -> bool:
    """Whether the training function that a model has notes what can be noted of it."""
    return bool(vars(model).get(_NOTES))


def _rows_that_count(batch: Any) -> tf.Tensor:
    rows = tf.cast(rows_in(data_of(batch)), tf.float64)
    if isinstance(batch, ShardedBatch):  # a rank without rows has one that does not count
        rows = tf.where(tf.cast(batch.scale, tf.float32) > 0, rows, 0.0)
    return rows


def inputs_seen(model: Any) -> Any:
    """What the model is called with in its steps, for one row; None if that was not noted."""
    return vars(model).get(_INPUTS)


def _inputs(data: Any) -> Any:
    return data[0] if isinstance(data, tuple) else data


def _spec(tensor: Any) -> Any:
    """A tensor's specification, of one row where the number of rows is not known."""
    spec = tf.type_spec_from_value(tensor)
    if not isinstance(spec, tf.TensorSpec) or not spec.shape.rank:
        return spec
    return tf.TensorSpec([spec.shape[0] or 1, *spec.shape[1:]], spec.dtype)


def _tokens(inputs: Any) -> Any:
    """How many integers the first input that holds rows of them has; 0 for none."""
    for leaf in keras.tree.flatten(inputs):
        if isinstance(leaf, tf.RaggedTensor) and leaf.dtype.is_integer:
            return tf.size(leaf.flat_values)
        if tf.is_tensor(leaf) and leaf.dtype.is_integer and leaf.shape.rank == 2:
            return tf.size(leaf)
    return 0
