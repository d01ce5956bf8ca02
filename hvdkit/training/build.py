"""Build a model before its first step, so that its variables can be sent to the other ranks."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.data.batch import ShardedBatch
from hvdkit.data.sharded import ShardedData


def build_from_data(model: Any, x: Any, y: Any) -> None:
    """Build a model from the shapes of its training data, if it is not built yet.

    Data whose shapes are not known before it is read (a Python generator) leaves the model as it
    is; so does a model that can't be built without numbers. `BroadcastGlobalVariablesCallback`
    then broadcasts after the first step.

    Args:
        model: a compiled Keras model.
        x: what `fit` got as x.
        y: what `fit` got as y.
    """
    if model.built or all(layer.built for layer in model._flatten_layers()):
        return
    inputs = _input_spec(x, y)
    if inputs is None:
        return
    symbolic = keras.tree.map_structure(
        lambda spec: keras.KerasTensor(spec.shape, spec.dtype), inputs
    )
    keras.src.backend.compute_output_spec(model, symbolic, training=False)


def _input_spec(x: Any, y: Any) -> Any:
    """Shapes and types of the model's input, the batch dimension unknown; None if not known."""
    if isinstance(x, ShardedData):
        spec = x.dataset(x.part).element_spec
        return _without_targets(spec.data if isinstance(spec, ShardedBatch) else spec)
    if isinstance(x, tf.data.Dataset):
        return _without_targets(x.element_spec)
    if isinstance(x, keras.utils.PyDataset):
        return _without_targets(_spec_of(x[0]))
    flat = keras.tree.flatten(x)
    if flat and all(isinstance(leaf, (np.ndarray, tf.Tensor)) for leaf in flat):
        return _spec_of(x)
    return None


def _without_targets(spec: Any) -> Any:
    first = spec[0] if isinstance(spec, tuple) else spec
    return keras.tree.map_structure(lambda s: _Spec((None, *s.shape[1:]), s.dtype.name), first)


def _spec_of(batch: Any) -> Any:
    return keras.tree.map_structure(
        lambda a: tf.TensorSpec((None, *np.shape(a)[1:]), np.asarray(a).dtype), batch
    )


class _Spec:
    def __init__(self, shape: tuple[int | None, ...], dtype: str) -> None:
        self.shape = shape
        self.dtype = dtype
