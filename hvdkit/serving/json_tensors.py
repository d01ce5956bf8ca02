"""Tensors as JSON: nested or flat lists to arrays, and arrays to flat lists."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from hvdkit.serving.datatypes import TEXT, numpy_dtype
from hvdkit.serving.problems import Problem, malformed

_KINDS: dict[str, set[type]] = {"b": {bool}, "i": {int}, "u": {int}, "f": {int, float}, "O": {str}}


def to_array(name: str, data: Any, datatype: str, shape: Sequence[int]) -> np.ndarray:
    """The array of a tensor's "data".

    Args:
        name: the tensor's, for messages.
        data: a flat list in row-major order, or lists nested as the shape says.
        datatype: the protocol's name.
        shape: sizes that are within the limits.

    Returns:
        An array of that shape; object arrays of UTF-8 bytes for text.

    Raises:
        Problem: data, datatype and shape do not fit.
    """
    dtype = numpy_dtype(datatype)
    values = _flat(name, data, shape)
    wrong = set(map(type, values)) - _KINDS[dtype.kind]
    if wrong:
        names = ", ".join(sorted(kind.__name__ for kind in wrong))
        raise malformed(f"input {name!r} is {datatype}, but its data holds {names}.")
    if datatype == TEXT:
        return _texts(name, values).reshape(shape)
    try:
        with np.errstate(over="ignore"):  # what becomes infinite is found below
            array = np.array(values, dtype)
    except OverflowError:
        raise malformed(f"input {name!r} holds a number that {datatype} can't hold.") from None
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise malformed(f"input {name!r} holds a number that {datatype} can't hold.")
    return array.reshape(shape)


def to_list(name: str, array: np.ndarray) -> list[Any]:
    """The flat list of an output, in row-major order.

    Raises:
        Problem: JSON can't carry it: NaN, Inf, or bytes that are no UTF-8.
    """
    if array.dtype == object:
        try:
            return [each.decode("utf-8") for each in array.ravel()]
        except UnicodeDecodeError:
            raise _needs_binary(name, "bytes that are no UTF-8") from None
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise _needs_binary(name, "NaN or infinite numbers")
    flat: list[Any] = array.ravel().tolist()
    return flat


def _flat(name: str, data: Any, shape: Sequence[int]) -> list[Any]:
    if not isinstance(data, list):
        raise malformed(f"the data of input {name!r} is no list.")
    level: list[Any] = [data]
    wrong = malformed(f"the data of input {name!r} does not have the shape {list(shape)}.")
    for depth, size in enumerate(shape):
        lengths = set(map(len, level))
        if depth == 0 and list not in set(map(type, data)):
            break  # flat already
        if lengths - {size}:
            raise wrong
        level = list(itertools.chain.from_iterable(level))
        kinds = set(map(type, level))
        last = depth == len(shape) - 1
        if (list in kinds) == last or (not last and kinds - {list}):
            raise wrong
    else:
        if shape:
            return level
    if len(data) != math.prod(shape):
        raise malformed(
            f"input {name!r} of the shape {list(shape)} has {len(data)} values in its data."
        )
    return data


def _texts(name: str, values: list[str]) -> np.ndarray:
    array = np.empty(len(values), object)
    try:
        array[:] = [value.encode("utf-8") for value in values]
    except UnicodeEncodeError:
        raise malformed(f"input {name!r} holds half of a character.") from None
    return array


def _needs_binary(name: str, what: str) -> Problem:
    return Problem(
        406,
        "not_json",
        f"output {name!r} holds {what}, which JSON can't carry: ask for it with the parameter "
        '"binary_data": true.',
    )
