"""Gradients that each rank of a tensor group has a part of, where each sees other rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from hvdkit.engine import Sum, ops
from hvdkit.exchange.gradient import Gradient
from hvdkit.mesh.layout import is_partial, layout_of


def summed_over_tensor_group(
    gradients: Sequence[Gradient], variables: Sequence[Any], name: str
) -> list[Gradient]:
    """Add up the parts of gradients that the ranks of a tensor group have.

    Args:
        gradients: one for each variable: a tensor, `tf.IndexedSlices`, or None.
        variables: what they belong to, in the same order.
        name: names the operation between ranks.

    Returns:
        The gradients in the same order; most are not partial, and stay.
    """
    summed = list(gradients)
    partial = [i for i, v in enumerate(variables) if gradients[i] is not None and is_partial(v)]
    if not partial:
        return summed
    layout = layout_of(variables[partial[0]])
    assert layout is not None
    sums = ops.grouped_allreduce(
        [tf.convert_to_tensor(gradients[i]) for i in partial],
        Sum,
        name=f"{name}_partial",
        process_set=layout.mesh.tensor_set,
    )
    for i, of_group in zip(partial, sums, strict=True):
        summed[i] = of_group
    return summed
