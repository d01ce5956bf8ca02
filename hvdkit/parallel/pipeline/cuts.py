"""Which layers go to which stage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import keras

from hvdkit.graph.balance import balance
from hvdkit.graph.flattening import flattened
from hvdkit.graph.layer_sequence import LayerSequence, Part, Step, operations_of
from hvdkit.keras_internals import TensorFlowTrainer


def cut(
    model: keras.Model, chunks: int, after: Sequence[str] | None
) -> tuple[LayerSequence, list[Part]]:
    """Cut a model into consecutive chunks.

    What enters a chunk leaves out the model's inputs that it does not need, and what leaves it the
    model's inputs: every stage has those from the data.

    Args:
        model: a functional or Sequential model; the layers of nested models count as its own.
        chunks: how many.
        after: names of the layers to cut after; None to let all chunks compute about as much.

    Raises:
        ValueError: there are too few layers, too many or too few cuts, or the model can't be cut.
    """
    require_plain(model)
    sequence = flattened(model)
    if chunks > 1 and (text := [t for t in sequence.outputs if t.dtype == "string"]):
        raise ValueError(
            f"model {sequence.name!r} returns text ({text[0]._keras_history.operation.name!r}), "
            "which the last stage can't send to the others. Let it return numbers."
        )
    if after is not None and len(after) != chunks - 1:
        raise ValueError(
            f"{len(after)} cuts make {len(after) + 1} chunks, but the pipeline has {chunks}: give "
            f"cuts the names of {chunks - 1} layers, or leave it out."
        )
    points = (
        balanced(sequence, chunks) if after is None else [sequence.point_after(n) for n in after]
    )
    for point in points:
        if problem := problem_at(sequence, point):
            raise ValueError(problem)
    parts = sequence.cut(points)
    if len(parts) != chunks:
        raise ValueError(f"the cuts {list(after or [])} name one point twice.")
    return sequence, [_without_given(part, sequence, last=part is parts[-1]) for part in parts]


def require_plain(model: Any) -> None:
    """Refuse what a pipeline would do otherwise than Keras.

    Raises:
        ValueError: with the reason.
    """
    if not isinstance(model, keras.Model):
        raise ValueError(f"a pipeline is made from a Keras model, not {type(model).__name__}.")
    own = [
        name
        for name in ("train_step", "test_step", "predict_step", "compute_loss", "compute_metrics")
        if getattr(type(model), name) is not getattr(TensorFlowTrainer, name)
    ]
    if own:
        raise ValueError(
            f"model {model.name!r} ({type(model).__name__}) has its own {', '.join(own)}, which "
            "can't be divided over the stages of a pipeline."
        )
    for layer in model._flatten_layers(include_self=False):
        if getattr(layer, "stateful", False):
            raise ValueError(
                f"layer {layer.name!r} is stateful: it keeps a state for each row of a batch, "
                "which micro-batches would mix up. Use stateful=False."
            )


def balanced(sequence: LayerSequence, chunks: int) -> list[int]:
    """Where to cut so that the chunks compute about as much.

    Raises:
        ValueError: the model has fewer blocks that can be separated than there are chunks.
    """
    ends = [
        0,
        *(p for p in sequence.cut_points() if problem_at(sequence, p) is None),
        len(sequence.steps),
    ]
    blocks = list(pairwise(ends))
    if len(blocks) < chunks:
        raise ValueError(
            f"model {sequence.name!r} can be cut into {len(blocks)} chunks at most (models that "
            "are called twice stay together, and text can't be sent), but the pipeline needs "
            f"{chunks} (stages times chunks)."
        )
    costs = [sum(_operations(step) for step in sequence.steps[a:b]) for a, b in blocks]
    sizes = [sum(_parameters(step) for step in sequence.steps[a:b]) for a, b in blocks]
    return [blocks[first][0] for first, _ in balance(costs, sizes, chunks)[1:]]


def problem_at(sequence: LayerSequence, point: int) -> str | None:
    """Why a pipeline can't be cut at a point; None if it can."""
    where = (
        f"model {sequence.name!r} can't be cut after {sequence.steps[point - 1].operation.name!r}: "
    )
    given = {id(tensor) for tensor in sequence.inputs}
    for tensor in sequence.crossing(point):
        if id(tensor) not in given and (tensor.dtype == "string" or tensor.sparse or tensor.ragged):
            kind = "text" if tensor.dtype == "string" else "sparse or ragged tensors"
            return (
                f"{where}what {tensor._keras_history.operation.name!r} returns would have to be "
                f"sent, and stages send no {kind}. Cut after the layer that makes numbers of it."
            )
    state = {id(v): op for op in operations_of(sequence.steps[point:]) for v in _state_of(op)}
    changed = next((state[id(v)] for v in sequence.tied_across(point) if id(v) in state), None)
    if changed is None:
        return None
    return (
        f"{where}layer {changed.name!r} ({type(changed).__name__}) would be needed on both sides, "
        "and it changes variables of its own when it is called (statistics, or the state of a "
        "random generator). Cut elsewhere, or use two layers."
    )


def _state_of(operation: Any) -> list[Any]:
    """The variables of a layer that are no weights, frozen or not."""
    if not isinstance(operation, keras.layers.Layer):
        return []
    weights = {id(v) for layer in operation._flatten_layers() for v in layer._trainable_variables}
    return [v for v in operation.variables if id(v) not in weights]


def _operations(step: Step) -> float:
    """About how many multiplications a step takes for a row.

    Matrices and kernels are applied at each position of the output (a pixel, a token), or, in a
    recurrent layer, at each of the input; the rest of a layer's work grows with its output.
    """
    over = step.input_tensors if isinstance(step.operation, keras.layers.RNN) else step.outputs
    positions = max((_elements(tensor.shape[1:-1]) for tensor in over), default=1)
    matrices = 0 if isinstance(step.operation, keras.layers.Embedding) else _parameters(step, 2)
    return float(matrices * positions + sum(_elements(tensor.shape[1:]) for tensor in step.outputs))


def _parameters(step: Step, dimensions: int = 0) -> int:
    variables = getattr(step.operation, "weights", [])
    return sum(_elements(v.shape) for v in variables if len(v.shape) >= dimensions)


def _elements(shape: Sequence[int | None]) -> int:
    return math.prod(size or 1 for size in shape)


def _without_given(part: Part, sequence: LayerSequence, last: bool) -> Part:
    given = {id(tensor) for tensor in sequence.inputs}
    used = {id(tensor) for step in part.steps for tensor in step.input_tensors}
    used |= {id(tensor) for tensor in part.outputs} if last else set()
    return replace(
        part,
        inputs=tuple(t for t in part.inputs if id(t) not in given or id(t) in used),
        outputs=tuple(t for t in part.outputs if last or id(t) not in given),
    )
