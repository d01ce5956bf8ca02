"""Build a model before its first step, so that its variables can be sent to the other ranks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.data.batch import data_of
from hvdkit.data.sharded import ShardedData
from hvdkit.engine import logger
from hvdkit.exchange.suspension import without_reduction
from hvdkit.state.constants import renew
from hvdkit.state.reachable import (
    has_been_traced,
    has_variables,
    optimizers_of,
    steps_by_itself,
)


def build_from_data(model: Any, x: Any, y: Any = None, sample_weight: Any = None) -> None:
    """Build a model from the shapes of its training data, if it is not built yet.

    A model that is trained by Keras's own step is called with symbolic inputs. What a `train_step`
    of one's own calls, and with what, is known by nobody else: it is traced, into a graph that is
    thrown away, which builds the optimizers, too.

    Data whose shapes are not known before it is read (a Python generator) leaves the model as it
    is; so does a model that can't be built without numbers. `BroadcastGlobalVariablesCallback`
    then broadcasts after the first step.

    Args:
        model: a compiled Keras model.
        x: what `fit` got as x.
        y: what `fit` got as y.
        sample_weight: what `fit` got as sample_weight.
    """
    if has_variables(model):
        return
    batch = _batch_spec(x, y, sample_weight)
    if batch is None:
        return
    try:
        if steps_by_itself(model):
            _trace_step(model, batch)
        else:
            keras.src.backend.compute_output_spec(model, _symbolic(batch), training=False)
        has_been_traced(model)
    except Exception as error:
        # Code of the user's that runs in its first step as it would without hvdkit: what is
        # wrong with it is said there, and some of it needs numbers.
        logger.debug("hvdkit: %s is not built before its first step: %s", model.name, error)
    finally:
        renew(model)  # constants that were made in a graph belong to it


def build_metrics(model: Any, spec: Any) -> None:
    """Make the variables of metrics, most of which Keras makes in the first step.

    Args:
        model: a compiled model that has its variables.
        spec: the type specification of a batch.
    """
    batch = data_of(spec)
    if steps_by_itself(model) and not model.run_eagerly:
        _trace_step(model, batch)
        return
    symbolic = keras.tree.map_structure(
        lambda s: keras.KerasTensor(s.shape, keras.backend.standardize_dtype(s.dtype)), batch
    )
    model._symbolic_build(data_batch=symbolic)


def _trace_step(model: Any, batch: Any) -> None:
    """Trace a step and throw it away; its optimizers are then built with what they are given."""
    if model.run_eagerly:
        raise ValueError("it runs eagerly")
    step = tf.function(model.train_step, autograph=False)
    optimizers = [one.optimizer for one in optimizers_of(model)]
    with without_reduction(), _noting(optimizers) as given:
        step.get_concrete_function(batch)
    for optimizer, variables in zip(optimizers, given, strict=True):
        if variables and not optimizer.built:
            optimizer.build(variables)


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


def _batch_spec(x: Any, y: Any, sample_weight: Any) -> Any:
    """The types of a batch as a step gets it, the number of rows unknown; None: not known."""
    if isinstance(x, ShardedData):
        return _specs(data_of(x.dataset(x.sharding).element_spec))
    if isinstance(x, tf.data.Dataset):
        return _specs(x.element_spec)
    if isinstance(x, keras.utils.PyDataset):
        return _specs(x[0])
    flat = keras.tree.flatten([part for part in (x, y, sample_weight) if part is not None])
    if flat and all(isinstance(leaf, (np.ndarray, tf.Tensor)) for leaf in flat):
        return _specs(keras.utils.pack_x_y_sample_weight(x, y, sample_weight))
    return None


def _specs(batch: Any) -> Any:
    return keras.tree.map_structure(_spec, batch)


def _spec(array: Any) -> Any:
    if isinstance(array, tf.TypeSpec) and not isinstance(array, tf.TensorSpec):
        return array
    array = array if hasattr(array, "shape") else np.asarray(array)
    dtype = tf.as_dtype(array.dtype)
    if isinstance(array, np.ndarray) and dtype.is_floating:
        dtype = tf.as_dtype(keras.config.floatx())  # as Keras reads arrays
    shape = tf.TensorShape(array.shape)
    return tf.TensorSpec(shape if not shape.rank else [None, *shape[1:]], dtype)


def _symbolic(batch: Any) -> Any:
    """The x of a batch (x, y) or (x, y, sample_weight), without numbers."""

    def leaf(spec: Any) -> keras.KerasTensor:
        dtype = keras.backend.standardize_dtype(spec.dtype)
        return keras.KerasTensor((None, *spec.shape[1:]), dtype)

    return keras.tree.map_structure(leaf, batch[0] if isinstance(batch, tuple) else batch)
