"""Layers whose gradients stay on their rank."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras


def local_variables_of(local_layers: Any) -> list[Any]:
    """The trainable variables of one layer or several.

    Raises:
        ValueError: something else than Keras layers was given, or a layer that is not built.
    """
    if local_layers is None:
        return []
    layers = [local_layers] if isinstance(local_layers, keras.Layer) else local_layers
    if not isinstance(layers, Iterable) or not all(isinstance(la, keras.Layer) for la in layers):
        raise ValueError("local_layers is a keras.Layer or a list of them.")
    layers = list(layers)
    unbuilt = [layer.name for layer in layers if not layer.built]
    if unbuilt:
        raise ValueError(
            f"the local layers {', '.join(unbuilt)} have no variables yet: "
            "build the model first (give it an Input, or call model.build)."
        )
    return [variable for layer in layers for variable in layer.trainable_variables]
