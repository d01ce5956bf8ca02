"""How often variables meet: one number, or one for each group of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hvdkit.mesh.variable import path_of

Every = int | Mapping[str, int]


def require_every(every: Any) -> None:
    """Refuse what says not how often variables meet.

    Raises:
        ValueError: a number is no integer above 0, a key no regular expression, or none is given.
    """
    numbers = list(every.values()) if isinstance(every, Mapping) else [every]
    good = all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in numbers)
    if not numbers or not good:
        raise ValueError(
            "every is the number of updates between two meetings, above 0, or such numbers by "
            f'patterns of paths, as in {{"embedding": 32, ".*": 4}}; not {every!r}.'
        )
    for pattern in every if isinstance(every, Mapping) else ():
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            raise ValueError(f"every has a key that is no pattern, {pattern!r}: {error}") from error


def pattern_of(every: Every, variable: Any) -> str:
    """The pattern of a variable: variables of one pattern meet together. "" where all do.

    Args:
        every: see `require_every`.
        variable: it belongs to the first pattern that is found in its path.

    Raises:
        ValueError: it has none.
    """
    if not isinstance(every, Mapping):
        return ""
    path = path_of(variable)
    pattern = next((one for one in every if re.search(one, path)), None)
    if pattern is None:
        raise ValueError(
            f'every has no pattern for {path}: add one, such as ".*" at the end for all others, '
            f"to {dict(every)}."
        )
    return pattern


def number_of(every: Every, pattern: str) -> int:
    """The updates between two meetings of variables of a pattern."""
    return every[pattern] if isinstance(every, Mapping) else every
