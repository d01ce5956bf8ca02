"""Weights as if they came from a file, and optimizers that see whole gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import hvdkit as hvd

ABOUT_ONE = ("gamma", "scale", "variance", "weight")


def take_pretrained_weights(model: Any, seed: int) -> None:
    """Give a model weights that no initializer makes, all of them different.

    What `Normalization` layers have learned from data stays.
    """
    rng = np.random.default_rng(seed)
    learned = {
        id(variable)
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.Normalization)
        for variable in layer.weights
    }
    for variable in model.weights:
        values = rng.uniform(0.5, 1.0, size=variable.shape)
        if len(variable.shape) > 1:
            fan_in = np.prod(variable.shape[:-1])
            values = (values - 0.75) * 6 / np.sqrt(fan_in)
        elif not any(name in variable.name for name in ABOUT_ONE):
            values = (values - 0.75) * 0.4
        if id(variable) not in learned and "float" in variable.dtype:
            variable.assign(values)


def with_sync_batch_normalization(model: keras.Model) -> keras.Model:
    """A copy that normalizes with the global batch, made with Keras's way to replace layers."""

    def replaced(layer: Any) -> Any:
        if type(layer) is keras.layers.BatchNormalization:
            return hvd.SyncBatchNormalization.from_config(layer.get_config())
        return type(layer).from_config(layer.get_config())

    return keras.models.clone_model(model, clone_function=replaced)


def densified(optimizer: Any) -> Any:
    """Let one of Keras's optimizers see gradients of embeddings whole.

    Keras's own apply the rows of an id that a batch holds twice one after the other; ranks add them
    up first, as `docs/migrating.md` says.
    """
    apply = optimizer.apply

    def apply_whole(grads: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        return apply([_whole(gradient) for gradient in grads], *args, **kwargs)

    optimizer.apply = apply_whole
    return optimizer


def _whole(gradient: Any) -> Any:
    return tf.convert_to_tensor(gradient) if isinstance(gradient, tf.IndexedSlices) else gradient


def order_in(model: Any, weights: Sequence[np.ndarray]) -> list[int]:
    """Where in another model each of these weights is; it is found by its values, to the bit."""
    places = {_key(w): place for place, w in enumerate(model.get_weights())}
    keys = [_key(w) for w in weights]
    missing = [place for place, key in enumerate(keys) if key not in places]
    assert not missing, f"weights {missing} of the model are not in {model.name}"
    assert len(set(keys)) == len(keys), "two weights have the same values, so nobody can tell"
    return [places[key] for key in keys]


def _key(weight: Any) -> tuple[Any, ...]:
    array = np.asarray(weight)
    return array.shape, array.tobytes()
