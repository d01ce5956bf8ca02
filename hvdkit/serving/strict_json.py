"""JSON of strangers: how deep and how long it is, is known before it is read."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

import numpy as np

from hvdkit.serving.problems import malformed, too_large

# The end of a text is optional, so that a text without one is looked at once.
_TEXTS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_SMALL = 1024


def loads(data: bytes, *, nesting: int, elements: int) -> Any:
    """Read JSON as RFC 8259 has it: in UTF-8, without NaN, no name twice in an object.

    Args:
        data: the text.
        nesting: the most levels of arrays and objects.
        elements: the most values, besides a few for the objects around them.

    Raises:
        Problem: it is not JSON (400), or beyond a limit (413).

    Example:
        >>> loads(b'{"a": [1, 2]}', nesting=4, elements=10)
        {'a': [1, 2]}
    """
    _check_size(data, nesting, elements + _SMALL)
    try:
        return json.loads(
            data.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_no_name_twice
        )
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        what = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise malformed(f"the request is not JSON: {what}") from None


def _check_size(data: bytes, nesting: int, elements: int) -> None:
    if len(data) <= elements and data.count(b"[") + data.count(b"{") <= nesting:
        return
    bare = np.frombuffer(_TEXTS.sub(b'""', data), np.uint8)
    opening = (bare == ord("[")) | (bare == ord("{"))
    closing = (bare == ord("]")) | (bare == ord("}"))
    depth = np.cumsum(opening.astype(np.int32) - closing)
    if depth.size and depth.max() > nesting:
        raise too_large(f"the request's JSON is nested deeper than {nesting} levels.")
    if np.count_nonzero(bare == ord(",")) + np.count_nonzero(opening) > elements:
        raise too_large(f"the request has more than {elements} values.")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON; the binary extension can carry it.")


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has a name twice.")
    return found
