"""Whether a number that a step has computed of its batch is a mean over rows.

Of means the ranks' can be averaged, weighted by rows; of ratios (F1) and roots they can't. The
graph of the step tells which it is.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

_SAME = ("Identity", "Cast", "Reshape", "Squeeze", "ExpandDims", "Neg", "StopGradient")
_SUMS = ("Add", "AddV2", "AddN", "Sub", "Pack")
_RATIOS = ("RealDiv", "Div", "DivNoNan")
_CURVES = ("Sqrt", "Rsqrt", "Square", "Pow", "Exp", "Log", "Log1p", "Sigmoid", "Tanh", "Reciprocal")
_REDUCTIONS = ("Sum", "Mean", "Max", "Min", "Prod")


def is_no_mean(number: Any) -> bool:
    """Whether a number certainly isn't made of sums over rows by adding and scaling alone.

    Args:
        number: a scalar; one that is not of a graph tells nothing.
    """
    if not isinstance(number, tf.Tensor) or not hasattr(number, "graph"):
        return False
    operation = number.op
    inputs = list(operation.inputs)
    if operation.type in _CURVES:
        return _depends_on_rows(inputs[0])
    if operation.type in _RATIOS:
        return _depends_on_rows(inputs[1]) or is_no_mean(inputs[0])
    if operation.type == "Mul":
        return all(map(_depends_on_rows, inputs)) or any(map(is_no_mean, inputs))
    if operation.type in _SAME:
        return is_no_mean(inputs[0])
    return operation.type in _SUMS and any(map(is_no_mean, inputs))


def _depends_on_rows(number: Any) -> bool:
    """Whether a number is made of the contents of rows, not only of how many there are."""
    operation = number.op
    if operation.type in _REDUCTIONS:
        return bool(number.dtype.is_floating)
    arithmetic = (*_SAME, *_SUMS, *_RATIOS, *_CURVES, "Mul", "Maximum", "Minimum")
    return operation.type in arithmetic and any(map(_depends_on_rows, operation.inputs))
