"""What the collectives share: one operation for each type, and what errors call it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf


def by_type(
    tensors: Sequence[tf.Tensor],
    name: str,
    collective: Callable[[list[tf.Tensor], str], Sequence[tf.Tensor]],
) -> list[tf.Tensor]:
    """Call a collective once for each type, in the order in which the types come.

    Args:
        tensors: of one type or of several.
        name: the operation's name; where there are several types, each has a name of its own.
        collective: takes tensors of one type and the name for them; gives a result for each.

    Returns:
        The results in the order of `tensors`.
    """
    results: list[tf.Tensor] = list(tensors)
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        places = [i for i, tensor in enumerate(tensors) if tensor.dtype == dtype]
        mixed = len(places) < len(tensors)
        own_name = f"{name}_{dtype.name}" if mixed else name
        of_type = collective([tensors[i] for i in places], own_name)
        for place, result in zip(places, of_type, strict=True):
            results[place] = result
    return results


def described(collective: str, name: str | None) -> str:
    """How an error names the operation."""
    return collective if name is None else f"{collective} {name!r}"
