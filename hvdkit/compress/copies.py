"""New models with the layers of a functional one, some of them changed or left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from hvdkit.graph.layer_sequence import graph_of, layer_sequence_of
from hvdkit.graph.rebuild import inputs_like, undrawn


def plain_model(model: Any) -> keras.Model:
    """A model as a plain functional one of the same layers: not compiled, of no class of its own.

    Raises:
        ValueError: the model is not built, or is no graph of layers.
    """
    try:
        graph = graph_of(model)
    except ValueError as error:
        raise ValueError(
            f"model {getattr(model, 'name', model)!r} ({type(model).__name__}) is no graph of "
            "layers that could be built anew with others: give a built functional or Sequential "
            "model, such as the one inside it."
        ) from error
    return keras.Model(graph._inputs_struct, graph._outputs_struct, name=model.name)


def copied(plain: keras.Model, config_of: Callable[[Any], dict[str, Any]]) -> keras.Model:
    """A model with new layers, in nested models, too, and with weights of their own.

    Args:
        plain: what `plain_model` gives.
        config_of: the config of the layer in the place of a given one.
    """

    def new_layer(layer: Any) -> Any:
        return type(layer).from_config(config_of(layer))

    with undrawn():
        sequence = layer_sequence_of(plain)
        inputs = keras.tree.pack_sequence_as(sequence.input_structure, inputs_like(sequence))
        return keras.models.clone_model(
            plain, input_tensors=inputs, clone_function=new_layer, recursive=True
        )
