"""Floating-point operations that a model's training takes for a row ("model FLOPs").

Counted are matrix products and convolutions, as for the utilisation of Chowdhery et al., "PaLM:
Scaling Language Modeling with Pathways", 2022, appendix B: what the mathematics needs, whether or
not activations are computed again to save memory. A training step needs each product once forward,
and backward once more for each of its two operands that depends on a trainable weight: three times
the forward pass, but for layers that are frozen, and for the first one, whose input needs no
gradient.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from hvdkit.monitoring.readings.graph_flops import count
from hvdkit.monitoring.readings.products import UnknownOperationsError

# Letters of an error that tell what is wrong.
_SHOWN = 300
_COLOURS = re.compile(r"\x1b\[\d*m")


@dataclass(frozen=True)
class ModelFlops:
    """What a training step of a model takes.

    Attributes:
        per_row: floating-point operations for a row, forward and backward; None if not known.
        forward: those of the forward pass alone.
        unknown: why they are not known.
    """

    per_row: float | None = None
    forward: float | None = None
    unknown: str = ""


def model_flops(model: Any, inputs: Any) -> ModelFlops:
    """Count the operations of a training step of a model, for a row.

    The model is traced once more with inputs of these shapes, and not run; on several ranks each
    counts its own. Of layers that are split over ranks (`hvd.parallel`) a rank counts its part, so
    that the sum over ranks is that of the job. What a loss or an optimizer multiplies is not the
    model's, and not counted.

    Args:
        model: a built Keras model that is trained by Keras's own `train_step` and
            `compute_loss`.
        inputs: what it is called with: arrays, tensors or their specifications, (rows, ...). All
            sizes have to be known; where rows differ in length the count is for this length.

    Returns:
        The count, or why there is none: a part of the operations is never taken for all.

    Example:
        >>> model_flops(model, tf.TensorSpec((32, 784))).per_row
    """
    try:
        specs = keras.tree.map_structure(_spec, inputs)
        rows = {spec.shape[0] for spec in keras.tree.flatten(specs)}
        if len(rows) != 1:
            raise UnknownOperationsError("its inputs do not have the same rows")
        forward, backward = _counted(model, specs)
    except UnknownOperationsError as error:
        return ModelFlops(unknown=str(error))
    (number,) = rows
    return ModelFlops((forward + backward) / number, forward / number)


def _spec(value: Any) -> tf.TensorSpec:
    try:
        shape = tf.TensorShape(value.shape)
        spec = tf.TensorSpec(shape, tf.as_dtype(value.dtype))
    except (AttributeError, TypeError, ValueError):
        raise UnknownOperationsError(f"an input is no array: {type(value).__name__}") from None
    if isinstance(value, (tf.RaggedTensor, tf.SparseTensor, tf.RaggedTensorSpec)) or (
        not shape.is_fully_defined() or shape.rank == 0 or shape[0] == 0
    ):
        raise UnknownOperationsError(f"an input has no fixed shape with rows: {shape}")
    return spec


def _counted(model: Any, specs: Any) -> tuple[float, float]:
    """Operations of a batch, forward and backward."""
    if not getattr(model, "built", False):
        raise UnknownOperationsError("the model has no weights yet")
    for name in ("train_step", "compute_loss"):  # which may call the model twice, or another one
        if getattr(type(model), name, None) is not getattr(keras.Model, name):
            raise UnknownOperationsError(f"the model has a {name} of its own")
    training = {"training": True} if model._call_has_training_arg else {}

    @tf.function(autograph=False)
    def forward(batch: Any) -> Any:
        return model(batch, **training)

    try:
        graph = forward.get_concrete_function(specs).graph
    # It runs a user's code, which may raise anything, and the training must not end by a figure.
    except Exception as error:
        plain = _COLOURS.sub("", f"{type(error).__name__}: {error}")
        what = " ".join(plain.split())[:_SHOWN]
        raise UnknownOperationsError(f"the model can't be called so: {what}") from None
    counted = count(graph, _trainable(graph, model), [True] * len(graph.outputs))
    return counted.forward, counted.backward


def _trainable(graph: Any, model: Any) -> list[bool]:
    """Which inputs of a graph are trainable weights."""
    inside = {id(outer): id(inner) for outer, inner in graph.captures}
    weights = set()
    for weight in model.trainable_variables:
        # Local replicas have a copy each.
        copies = getattr(weight.value, "values", None) or [weight.value]
        found = {inside[id(copy.handle)] for copy in copies if id(copy.handle) in inside}
        if not found:
            raise UnknownOperationsError(f"a call of the model does not read {weight.path}")
        weights |= found
    return [id(tensor) in weights for tensor in graph.inputs]
