"""Values of logs: numbers, arrays, text, or nothing, compared and averaged between ranks."""

from __future__ import annotations

from typing import Any

import numpy as np

# A step compiled by XLA may round its results otherwise than the same metric on its own.
_RELATIVE = 1e-5


def as_value(leaf: Any) -> Any:
    """What of a log can be sent and compared.

    Returns:
        A float64 array for a number or an array of numbers, else None, text, an array of text, or
        the text that stands for any other object.
    """
    if leaf is None or isinstance(leaf, (str, bytes)):
        return leaf
    try:
        array = np.asarray(leaf)
    except (TypeError, ValueError):  # ragged, sparse, or an object that refuses
        return repr(leaf)
    if array.dtype.kind in "fiub" or array.dtype.name == "bfloat16":
        return array.astype(np.float64)
    return array.tolist() if array.dtype.kind in "SUO" else repr(leaf)


def plain(value: Any) -> Any:
    """A number as a Python float, an array as it is."""
    array = np.asarray(value)
    return float(array) if array.ndim == 0 else array


def close(one: Any, other: Any) -> bool:
    """Whether two values are the same but for rounding."""
    if not (_is_number(one) and _is_number(other)):
        return False
    return np.shape(one) == np.shape(other) and np.allclose(
        one, other, rtol=_RELATIVE, atol=0, equal_nan=True
    )


def alike(values: list[Any]) -> bool:
    """Whether all ranks have the same value."""
    first, *others = values
    if _is_number(first):
        return all(_is_number(o) and np.array_equal(first, o, equal_nan=True) for o in others)
    return all(not _is_number(other) and other == first for other in others)


def can_be_averaged(values: list[Any]) -> bool:
    """Whether the values of the ranks are numbers, or arrays of one shape."""
    return all(_is_number(v) and np.shape(v) == np.shape(values[0]) for v in values)


def combine(values: list[Any], weights: list[float]) -> Any:
    """One value for that of all ranks: their average, or the first where there is none.

    Args:
        values: of the ranks.
        weights: of the ranks; all of them zero if nothing is known. A rank without a weight may
            hold anything, also NaN.
    """
    if not can_be_averaged(values):
        return values[0]
    if not any(weights):
        weights = [1.0] * len(values)
    counted = [(v, w) for v, w in zip(values, weights, strict=True) if w]
    return plain(np.average([v for v, _ in counted], axis=0, weights=[w for _, w in counted]))


def _is_number(value: Any) -> bool:
    return isinstance(value, (np.ndarray, np.generic, float, int))
