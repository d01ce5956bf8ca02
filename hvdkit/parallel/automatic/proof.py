"""Whether a divided model does what it did whole: outputs and gradients on a sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.engine import Sum, allgather_object, ops
from hvdkit.graph.layer_sequence import LayerSequence
from hvdkit.mesh.layout import is_partial, layout_of

_TIMES = 100  # of one layer's rounding, which a model's layers add up to


@dataclass(frozen=True)
class Result:
    """What a model gives for a sample, in inference or training.

    Attributes:
        outputs: the model's outputs.
        of_inputs: gradients of its inputs of floats.
        of_weights: gradients of its trainable variables; None where there is none.
        added: what its layers add to the loss.
    """

    outputs: list[np.ndarray]
    of_inputs: list[np.ndarray | None]
    of_weights: list[np.ndarray | None]
    added: np.ndarray


def results(model: keras.Model, sequence: LayerSequence, inputs: Sequence[Any]) -> list[Result]:
    """Run a model forward and backward, in inference and in training; its state stays."""
    found = []
    for training in (False, True):
        with state_kept(model):
            found.append(_result(model, sequence, inputs, training))
    return found


def difference(
    model: keras.Model, whole: Sequence[Result], divided: Sequence[Result]
) -> str | None:
    """How a divided model differs from what it was; None if it does not. All ranks call it."""
    own = None
    for mode, before, now in zip(("inference", "training"), whole, divided, strict=True):
        own = own or _difference(model, mode, before, now)
    return next((each for each in allgather_object(own) if each is not None), None)


def _difference(model: keras.Model, mode: str, before: Result, now: Result) -> str | None:
    tolerance = _tolerance(model)
    for i, (one, other) in enumerate(zip(now.outputs, before.outputs, strict=True)):
        if one.shape != other.shape or not _close(one, other, 0.0, tolerance):
            return f"output {i} in {mode}"
    if not _close(now.added, before.added, 0.0, tolerance):
        return f"what its layers add to the loss in {mode}"
    gradients = [g for g in (*before.of_inputs, *before.of_weights) if g is not None]
    floor = 1e-3 * max((float(np.abs(g).max(initial=0.0)) for g in gradients), default=0.0)
    for i, (mine, theirs) in enumerate(zip(now.of_inputs, before.of_inputs, strict=True)):
        if not _same_gradient(mine, theirs, floor, tolerance):
            return f"the gradient of input {i} in {mode}"
    for variable, mine, theirs in zip(
        model.trainable_variables, now.of_weights, before.of_weights, strict=True
    ):
        layout = layout_of(variable)
        if theirs is not None and layout is not None:
            theirs = layout.shard_of(theirs)
        if not _same_gradient(mine, theirs, floor, tolerance):
            return f"the gradient of {variable.path} in {mode}"
    return None


def _result(
    model: keras.Model, sequence: LayerSequence, inputs: Sequence[Any], training: bool
) -> Result:
    floats = [x for x in inputs if x.dtype.is_floating]
    variables = [v.value for v in model.trainable_variables]
    generator = np.random.default_rng(5)
    with tf.GradientTape() as tape:
        tape.watch(floats)
        packed = keras.tree.pack_sequence_as(sequence.input_structure, list(inputs))
        outputs = keras.tree.flatten(model(packed, training=training))
        total = tf.zeros(())
        for output in outputs:
            if output.dtype.is_floating:
                upstream = generator.normal(size=output.shape).astype("float32")
                total += tf.reduce_mean(tf.cast(output, "float32") * upstream)
        added = sum((tf.cast(loss, "float32") for loss in model.losses), tf.zeros(()))
        total += added
    of_inputs, of_weights = tape.gradient(total, [floats, variables])
    return Result(
        [_array(output) for output in outputs],
        [None if g is None else _array(g) for g in of_inputs],
        [_gradient(g, v) for g, v in zip(of_weights, model.trainable_variables, strict=True)],
        np.asarray(added),
    )


def _gradient(gradient: Any, variable: Any) -> np.ndarray | None:
    if gradient is None:
        return None
    dense = tf.convert_to_tensor(gradient)
    layout = layout_of(variable)
    if layout is not None and is_partial(variable):
        dense = ops.allreduce(dense, Sum, process_set=layout.mesh.tensor_set)
    return _array(dense)


def _array(tensor: Any) -> np.ndarray:
    array = np.asarray(tensor)
    return array.astype("float32") if tf.as_dtype(tensor.dtype).is_floating else array


def _same_gradient(
    mine: np.ndarray | None, theirs: np.ndarray | None, floor: float, tolerance: float
) -> bool:
    if mine is None or theirs is None:
        return mine is theirs
    return mine.shape == theirs.shape and _close(mine, theirs, floor, tolerance)


def _tolerance(model: keras.Model) -> float:
    types = {layer.compute_dtype for layer in model._flatten_layers()}
    return _TIMES * (1e-3 if types & {"float16", "bfloat16"} else 1e-5)


def _close(mine: np.ndarray, theirs: np.ndarray, floor: float, tolerance: float) -> bool:
    if not np.issubdtype(theirs.dtype, np.floating):
        return bool(np.array_equal(mine, theirs))
    finite = np.abs(theirs[np.isfinite(theirs)])
    largest = max(float(finite.max(initial=0.0)), floor, 1e-6)
    return bool(np.allclose(mine, theirs, rtol=0.0, atol=tolerance * largest, equal_nan=True))


@contextmanager
def state_kept(model: keras.Model) -> Iterator[None]:
    """What calls change, moving statistics and random states, is as before at the end."""
    state = [(v, np.array(v)) for v in model.variables if not v.trainable]
    state = [(v, value) for v, value in state if layout_of(v) is None]
    try:
        yield
    finally:
        for variable, value in state:
            variable.assign(value)
