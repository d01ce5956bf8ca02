"""Build a model before its first step, so that its variables can be sent to the other ranks."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.data.batch import data_of
from hvdkit.data.sharded import ShardedData


def build_from_data(model: Any, x: Any) -> None:
    """Build a model from the shapes of its training data, if it is not built yet.

    Data whose shapes are not known before it is read (a Python generator) leaves the model as it
    is; so does a model that can't be built without numbers. `BroadcastGlobalVariablesCallback`
    then broadcasts after the first step.

    Args:
        model: a compiled Keras model.
        x: what `fit` got as x.
    """
    if model.built or all(layer.built for layer in model._flatten_layers()):
        return
    inputs = _symbolic_inputs(x)
    if inputs is not None:
        keras.src.backend.compute_output_spec(model, inputs, training=False)


def _symbolic_inputs(x: Any) -> Any:
    """The model's input without numbers, the batch dimension unknown; None if not known."""
    if isinstance(x, ShardedData):
        return _symbolic(_inputs(data_of(x.dataset(x.part).element_spec)))
    if isinstance(x, tf.data.Dataset):
        return _symbolic(_inputs(x.element_spec))
    if isinstance(x, keras.utils.PyDataset):
        return _symbolic(_inputs(x[0]))
    flat = keras.tree.flatten(x)
    if flat and all(isinstance(leaf, (np.ndarray, tf.Tensor)) for leaf in flat):
        return _symbolic(x)
    return None


def _inputs(batch: Any) -> Any:
    """The x of a batch (x, y) or (x, y, sample_weight)."""
    return batch[0] if isinstance(batch, tuple) else batch


def _symbolic(batch: Any) -> Any:
    def leaf(array: Any) -> keras.KerasTensor:
        array = array if hasattr(array, "shape") else np.asarray(array)
        dtype = keras.backend.standardize_dtype(array.dtype)
        return keras.KerasTensor((None, *array.shape[1:]), dtype)

    return keras.tree.map_structure(leaf, batch)
