"""A Keras model as the planner sees it, read through its layers. Only this file imports Keras."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from hvdkit.errors import HvdkitError
from hvdkit.graph.layer_sequence import layer_sequence_of
from hvdkit.planner.work import MeasuredModel

Shape = tuple[int | None, ...]


class UnknownSizeError(HvdkitError, ValueError):
    """A model's sizes are not known before it runs, so that nothing can be planned."""


def measured_model(model: keras.Model, name: str = "") -> MeasuredModel:
    """Count a model's weights, and what a forward pass of a row computes and keeps.

    Matrix products and convolutions are counted, each multiplication with its addition as two
    operations. Layers with weights that are not known are counted as if each weight were used once
    at each position of what they return.

    Args:
        model: a functional or Sequential model, or any other that is built, whose layers know
            their shapes.
        name: what tables call it; its own name by default.

    Raises:
        UnknownSizeError: a size other than the batch's is not known.

    Example:
        >>> measured_model(keras.applications.ResNet50(weights=None)).parameters
        25636712
    """
    if not model.built:
        raise UnknownSizeError(
            f"the model {model.name} is not built, so its sizes are not known: give it an Input, "
            "or call it once."
        )
    flops, kept, tokens = 0.0, 0.0, 1
    for step in _steps(model):
        shapes = [tensor.shape for tensor in step.outputs]
        for shape in shapes:
            if any(size is None for size in shape[1:]):
                raise UnknownSizeError(
                    f"the model {model.name} does not know the size of what {step.operation.name} "
                    f"returns, {shape}: give its Input whole sizes."
                )
        flops += flops_of(step.operation, [t.shape for t in step.input_tensors], shapes)
        kept += sum(math.prod(shape[1:]) for shape in shapes)
    matrices = tuple(
        (int(math.prod(v.shape[:-1])), int(v.shape[-1]))
        for v in model.trainable_variables
        if len(v.shape) > 1
    )
    parameters = sum(math.prod(v.shape) for v in model.variables)
    if parameters == 0:
        raise UnknownSizeError(f"the model {model.name} has no weights: there is nothing to train.")
    first = model.inputs[0]
    if len(first.shape) == 2 and "int" in str(first.dtype):
        tokens = int(first.shape[1])  # numbers of tokens
    return MeasuredModel(
        name or model.name, int(parameters), flops, kept, matrices=matrices, tokens_of_row=tokens
    )


def _steps(model: Any) -> tuple[Any, ...]:
    try:
        return layer_sequence_of(model).steps
    except ValueError as error:
        raise UnknownSizeError(f"{error} Plan with --parameters and --flops.") from error


def flops_of(operation: Any, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> float:
    """Floating-point operations of a call for a row, forward.

    Args:
        operation: the layer, with all layers inside of it, or operation.
        inputs: shapes of what it takes, rows first.
        outputs: shapes of what it returns.
    """
    if not isinstance(operation, keras.layers.Layer):
        return _of_product(operation, inputs, outputs)
    positions = max((_positions(shape) for shape in outputs), default=1)
    return sum(_of_layer(layer, positions, inputs) for layer in _leaves(operation)) + sum(
        _of_attention(layer, positions) for layer in _layers(operation)
    )


def _of_product(operation: Any, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> float:
    """Of a product of two tensors; other operations are counted by what they move."""
    kind = type(operation).__name__
    if kind == "DotProductAttention" and len(inputs) >= 3:
        rows, length = _row(inputs[0]), _row(inputs[1])[1]
        return 4.0 * math.prod(rows) * length  # scores, and values by scores
    if kind not in ("Einsum", "Matmul") or len(inputs) != 2 or not outputs:
        return 0.0
    left, right, out = (_row(shape) for shape in (*inputs, outputs[0]))
    if kind == "Matmul":
        return 2.0 * math.prod(out) * left[-1]
    # Each axis that is summed over is in both operands, each other one in one of them and in the
    # result, or in all three.
    terms = operation.subscripts.replace(" ", "").split("->")[0].split(",")
    if "..." in operation.subscripts or [len(t) for t in terms] != [len(left), len(right)]:
        return 2.0 * math.prod(out)
    sizes = {**dict(zip(terms[0], left, strict=True)), **dict(zip(terms[1], right, strict=True))}
    return 2.0 * float(math.prod(sizes.values()))


def _row(shape: Shape) -> list[int]:
    return [1 if axis == 0 else int(size or 1) for axis, size in enumerate(shape)]


def _of_layer(layer: Any, positions: int, inputs: Sequence[Shape]) -> float:
    """Operations of a layer without others in it, for a row."""
    weights = [
        math.prod(v.shape)
        for v in getattr(layer, "variables", [])
        if len(v.shape) > 1 and not v.path.endswith("bias")
    ]
    if isinstance(layer, keras.layers.Embedding) or not weights:
        return 0.0
    name = type(layer).__name__
    if (
        "Transpose" in name
        or isinstance(layer, keras.layers.RNN | keras.layers.Bidirectional)
        or "Cell" in name
    ):
        positions = _positions(inputs[0])
    return float(2 * positions * sum(weights))


def _of_attention(layer: Any, positions: int) -> float:
    """Scores, and values by scores."""
    heads = getattr(layer, "num_heads", None) or getattr(layer, "_num_heads", None)
    size = getattr(layer, "key_dim", None) or getattr(layer, "_key_dim", None)
    if "Attention" not in type(layer).__name__ or not heads or not size:
        return 0.0
    return 4.0 * positions**2 * int(heads) * int(size)


def _positions(shape: Shape) -> int:
    """Of a row: all sizes but the batch and the channels."""
    return math.prod(int(size or 1) for size in shape[1:-1])


def _layers(layer: Any) -> Iterator[Any]:
    yield layer
    for inner in getattr(layer, "_layers", []):
        yield from _layers(inner)


def _leaves(layer: Any) -> Iterator[Any]:
    inner = list(getattr(layer, "_layers", []))
    if not inner:
        yield layer
    for each in inner:
        yield from _leaves(each)
