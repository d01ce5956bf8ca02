"""Quantized models that can be saved and loaded."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras

from hvdkit.mesh.layout import is_sharded
from hvdkit.mesh.variable import described, path_of
from hvdkit.parallel.pipeline.model import PipelineModel

Filters = str | Sequence[str] | Callable[[Any], bool] | None


def quantize(
    model: keras.Model, mode: str | None = None, *, config: Any = None, filters: Filters = None
) -> None:
    """Quantize a model by Keras's `quantize`, so that files of it can be loaded.

    In a file of Keras's a layer such as MultiHeadAttention does not say that layers inside it are
    quantized, and can't be loaded. Here it does, by a `keras.dtype_policies.DTypePolicyMap`: what
    `model.save` writes then loads with `keras.models.load_model`, without hvdkit. Whether it will
    is tried at once.

    All ranks call it, before they compile the model: kernels of int8 or int4 are not trained, and
    an optimizer that was built before does not fit. float8 is trained on.

    Args:
        model: a built model; it is changed.
        mode: "int8", "int4" or "float8", or another one of `keras.Model.quantize`.
        config: a `keras.quantizers.QuantizationConfig`; needed for "gptq" and "awq".
        filters: which layers, by Keras's rules: expressions for their names, or a function.

    Raises:
        ValueError: the model is not built, is divided over ranks, is compiled with a built
            optimizer, has nothing that can be quantized, or could not be loaded; the last names the
            layer, and the model is quantized then.

    Example:
        >>> hvd.compress.quantize(model, "int8")
        >>> model.save("small.keras")
    """
    _require_quantizable(model)
    before = _modes(model)
    with warnings.catch_warnings():
        # One for each layer that holds no kernel; whether any was quantized is looked at below.
        warnings.filterwarnings("ignore", message="Layer .* does not have a `quantize` method")
        model.quantize(mode, config=config, filters=filters)
    if _modes(model) == before:
        raise ValueError(
            f"model {model.name!r} has no layer that was not quantized and now is; Keras quantizes "
            "Dense, EinsumDense, and in int8 and int4 Embedding."
        )
    for layer in model._flatten_layers():
        if not isinstance(layer, keras.Model):
            _say_what_is_inside(layer)
    _require_loadable(model)


def _require_quantizable(model: Any) -> None:
    if not model.built:
        raise ValueError(
            f"the model {model.name!r} has no variables yet that could be quantized: give it an "
            "Input, or call it on a batch first."
        )
    if any(isinstance(layer, PipelineModel) for layer in model._flatten_layers()):
        raise ValueError(
            f"model {model.name!r} is divided over pipeline ranks: quantize the model that "
            "keras.models.load_model gives of its file."
        )
    for variable in model.variables:
        if is_sharded(variable):
            raise ValueError(
                f"{path_of(variable)} is divided over the tensor ranks of the mesh, whose shards "
                "would get scales of their own: quantize the model without a mesh."
            )
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and optimizer.built:
        raise ValueError(
            f"model {model.name!r} has an optimizer that was built for the weights that it has "
            "now, and the quantized ones are others: quantize what keras.models.load_model(file, "
            "compile=False) or keras.models.clone_model gives, and compile it anew if it is to be "
            "trained on."
        )


def _modes(model: Any) -> dict[int, str | None]:
    return {id(layer): _mode_of(layer) for layer in model._flatten_layers()}


def _mode_of(layer: Any) -> str | None:
    mode: str | None = getattr(layer.dtype_policy, "quantization_mode", None)
    return mode


def _say_what_is_inside(layer: Any) -> None:
    """Let the config of a layer hold how those inside it are quantized."""
    inside = {
        inner.path: inner.dtype_policy
        for inner in layer._flatten_layers(include_self=False)
        if _mode_of(inner)
    }
    if inside:
        policy = layer.dtype_policy
        if isinstance(policy, keras.dtype_policies.DTypePolicyMap):
            policy = policy.default_policy
        layer.dtype_policy = keras.dtype_policies.DTypePolicyMap(policy, inside)


def _require_loadable(model: Any) -> None:
    """Build the model from its config, and compare the variables."""
    try:
        other = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
        if not other.built:
            other.build_from_config(model.get_build_config())
    except (NotImplementedError, RecursionError, TypeError, ValueError) as error:
        problem = f"it can't be built from its config ({error})"
    else:
        # Keras makes the variables of float8 in another order when it builds such a layer.
        mine, theirs = (
            sorted((path_of(v), described(v)) for v in one.weights) for one in (model, other)
        )
        if mine == theirs:
            return
        differing = [own for own in mine if own not in theirs]
        problem = (
            f"{differing[0][0]} ({differing[0][1]}) would not be there"
            if differing
            else ("its weights would be others")
        )
    raise ValueError(
        f"model {model.name!r} is quantized now, and a file of it could not be loaded: {problem}. "
        "Save its weights instead (model.save_weights), and load them into the same model after "
        "the same quantize."
    )
