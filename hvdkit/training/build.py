"""Build a model before its first step, so that its variables can be sent to the other ranks."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.callbacks.backup_and_restore import BackupAndRestore
from hvdkit.data.batch import data_of
from hvdkit.data.sharded import ShardedData
from hvdkit.engine import logger, several_ranks
from hvdkit.engine.local_replicas import scope_of
from hvdkit.keras_internals import compute_output_spec
from hvdkit.state.constants import renew
from hvdkit.state.reachable import (
    has_been_traced,
    has_variables,
    steps_by_itself,
)
from hvdkit.state.tracing import trace_step
from hvdkit.training.features import Call, Feature


class BuiltFirst(Feature):
    """A model has its variables before callbacks are called: they may send or restore them."""

    def before(self, call: Call) -> None:
        """Build it, where that is needed."""
        restores = any(isinstance(one, BackupAndRestore) for one in call.callbacks)
        if several_ranks() or restores:
            given = call.arguments
            build_from_data(call.model, given["x"], given["y"], given["sample_weight"])


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
            trace_step(model, batch)
        else:
            with scope_of(model.distribute_strategy):
                compute_output_spec(model, _symbolic(batch), training=False)
        has_been_traced(model)
    except Exception as error:
        # Code of the user's that runs in its first step as it would without hvdkit: what is
        # wrong with it is said there, and some of it needs numbers.
        logger.debug("hvdkit: %s is not built before its first step: %s", model.name, error)
    finally:
        renew(model)  # constants that were made in a graph belong to it


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
