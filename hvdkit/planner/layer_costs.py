"""What the blocks of a model cost: time for a batch, forward and backward, and memory."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.graph.layer_sequence import LayerSequence, variables_of
from hvdkit.graph.rebuild import part_model

Range = tuple[int, int]
_REPEATS = 3


def measured_times(
    sequence: LayerSequence, blocks: Sequence[Range], rows: int, devices: Sequence[str]
) -> list[float]:
    """Milliseconds of each block for a batch of `rows`, measured on the first of the devices."""
    ends = [stop for _, stop in blocks[:-1]]
    times = []
    with tf.device(devices[0]):
        tensors = {
            id(t): tf.zeros(_with_rows(t.shape, rows), tf.as_dtype(t.dtype))
            for t in sequence.inputs
        }
        for i, part in enumerate(sequence.cut(ends)):
            # Shapes that Keras knows need not be true: a block gets what those before it made.
            inputs = [tensors[id(t)] for t in part.inputs]
            milliseconds, outputs = _measured(part_model(part, f"block_{i}"), inputs)
            times.append(milliseconds)
            tensors = {id(t): made for t, made in zip(part.outputs, outputs, strict=True)}
    return times


def estimated_times(
    sequence: LayerSequence, blocks: Sequence[Range], rows: int, devices: Sequence[str]
) -> list[float]:
    """Milliseconds of each block from its operations, at the speed of one matrix product.

    A layer with weights multiplies each with one number at each position of its output; the
    backward pass does so twice.
    """
    per_millisecond = _speed(devices[0])
    return [
        3 * rows * sum(_operations(step) for step in sequence.steps[a:b]) / per_millisecond
        for a, b in blocks
    ]


def memory(sequence: LayerSequence, blocks: Sequence[Range], rows: int, slots: int) -> list[float]:
    """Bytes that each block holds in training, in whole batches.

    Its weights, a gradient for each, `slots` slots of the optimizer for each, and what its layers
    return, which the backward pass needs.
    """
    return [
        _weights(sequence.steps[a:b], slots) + _activations(sequence.steps[a:b], rows)
        for a, b in blocks
    ]


def _weights(steps: Sequence[Any], slots: int) -> float:
    copies = {True: 2 + slots, False: 1}
    return float(sum(_bytes(v.shape, v.dtype) * copies[v.trainable] for v in variables_of(steps)))


def _activations(steps: Sequence[Any], rows: int) -> float:
    return float(
        sum(_bytes(_with_rows(t.shape, rows), t.dtype) for step in steps for t in step.outputs)
    )


def _bytes(shape: Any, dtype: str) -> int:
    return int(math.prod(shape) * tf.as_dtype(dtype).size)


def _with_rows(shape: Any, rows: int) -> list[int]:
    """A shape with numbers for what is not known: the rows, and 1."""
    return [rows if i == 0 and n is None else n or 1 for i, n in enumerate(shape)]


def _operations(step: Any) -> float:
    """Floating-point operations of a step for one row, forward."""
    output = max((math.prod(_with_rows(t.shape, 1)) for t in step.outputs), default=1)
    if isinstance(step.operation, keras.layers.Embedding):
        return float(output)
    positions = [
        math.prod(_with_rows(t.shape, 1)[1:-1]) for t in [*step.outputs, *step.input_tensors]
    ]
    weights = sum(math.prod(v.shape) for v in variables_of([step]) if len(v.shape) > 1)
    return float(output + 2 * weights * max(positions, default=1))


def _speed(device: str) -> float:
    """Operations a millisecond of a matrix product."""
    size = 512
    with tf.device(device):
        matrix = tf.ones((size, size))
        return 2.0 * size**3 / _best(lambda: tf.matmul(matrix, matrix).numpy())


def _measured(model: keras.Model, inputs: list[Any]) -> tuple[float, list[Any]]:
    """Milliseconds of a forward and backward pass, and what the model makes of the inputs."""
    floats = [x for x in inputs if x.dtype.is_floating]

    @tf.function(autograph=False)
    def step() -> Any:
        with tf.GradientTape() as tape:
            tape.watch(floats)
            outputs = keras.tree.flatten(model(inputs, training=True))
            total = tf.add_n(
                [tf.reduce_sum(tf.cast(t, tf.float32)) for t in outputs if t.dtype.is_floating]
                or [tf.zeros(())]
            )
        gradients = tape.gradient(total, [*model.trainable_variables, *floats])
        return total, [g for g in gradients if g is not None]

    state = [np.array(v) for v in model.non_trainable_variables]
    outputs = keras.tree.flatten(model(inputs))
    step()  # traced here
    took = _best(lambda: step()[0].numpy())
    for variable, value in zip(model.non_trainable_variables, state, strict=True):
        variable.assign(value)  # moving statistics and random states are as before
    return took, outputs


def _best(run: Any) -> float:
    times = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return 1000 * min(times)
