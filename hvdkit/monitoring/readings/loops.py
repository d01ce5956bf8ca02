"""How often a loop of a graph is passed, where its graph tells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

_SAME = ("Identity", "StopGradient")


def passes(loop: tf.Operation, cond: Any, body: Any) -> int | None:
    """How often the body of a loop runs, or None where that is known only when it runs.

    It is known of loops that count up to a number: `tf.while_loop` with `maximum_iterations`,
    `keras.ops.fori_loop`, recurrent layers over sequences of a known length.

    Args:
        loop: the `While` operation.
        cond: the graph of its condition.
        body: the graph of its body.
    """
    first = [_number(tensor) for tensor in loop.inputs]
    steps = [_step(body, place) for place in range(len(loop.inputs))]
    return _true_for(cond.outputs[0], cond.inputs, first, steps)


def _source(tensor: Any) -> Any:
    while tensor.op.type in _SAME:
        tensor = tensor.op.inputs[0]
    return tensor


def _number(tensor: Any) -> float | None:
    """The value of a scalar that does not depend on anything."""
    tensor = _source(tensor)
    if tensor.shape.rank != 0:
        return None
    if tensor.op.type in ("Max", "Min") and tensor.op.inputs[0].shape.rank == 0:
        return _number(tensor.op.inputs[0])  # of one number
    value = tf.get_static_value(tensor) if tensor.dtype.is_integer else None
    return None if value is None else float(value)


def _place(tensor: Any, inputs: Sequence[Any]) -> int | None:
    return next((place for place, given in enumerate(inputs) if given is tensor), None)


def _step(body: Any, place: int) -> float | None:
    """What one pass adds to a variable of the loop."""
    result = _source(body.outputs[place])
    if _place(result, body.inputs) == place:
        return 0.0
    if result.op.type not in ("AddV2", "Add"):
        return None
    left, right = (_source(tensor) for tensor in result.op.inputs)
    if _place(left, body.inputs) == place:
        return _number(right)
    return _number(left) if _place(right, body.inputs) == place else None


def _true_for(
    condition: Any,
    inputs: Sequence[Any],
    first: Sequence[float | None],
    steps: Sequence[float | None],
) -> int | None:
    """How many passes a condition holds for."""
    condition = _source(condition)
    if condition.op.type == "LogicalAnd":
        both = [_true_for(each, inputs, first, steps) for each in condition.op.inputs]
        known = [count for count in both if count is not None]
        return min(known) if len(known) == len(both) else None
    if condition.op.type not in ("Less", "LessEqual", "Greater", "GreaterEqual"):
        return None
    small, large = (_line(each, inputs, first, steps) for each in condition.op.inputs)
    if condition.op.type.startswith("Greater"):
        small, large = large, small
    if small is None or large is None:
        return None
    gap, closing = large[0] - small[0], small[1] - large[1]
    if condition.op.type.endswith("Equal"):
        gap += 1  # they are whole numbers
    if gap <= 0:
        return 0
    return math.ceil(gap / closing) if closing > 0 else None


def _line(
    tensor: Any,
    inputs: Sequence[Any],
    first: Sequence[float | None],
    steps: Sequence[float | None],
) -> tuple[float, float] | None:
    """A number's first value, and what each pass adds to it."""
    tensor = _source(tensor)
    place = _place(tensor, inputs)
    start, step = (_number(tensor), 0.0) if place is None else (first[place], steps[place])
    return None if start is None or step is None else (start, step)
