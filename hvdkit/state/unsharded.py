"""Unsharded values of variables that are sharded over the ranks of a mesh.

They do not depend on the mesh: they can be loaded with another tensor degree, or into the same
model without a mesh.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from hvdkit.engine import ProcessSet, ops
from hvdkit.mesh.layout import layout_of


def unsharded_values(variables: Sequence[Any]) -> list[np.ndarray]:
    """The values of variables, unsharded.

    All ranks that they are sharded over call it. One variable after the other is gathered, so no
    more than one travels at a time, but the result holds all of them.

    Args:
        variables: such as `model.weights` or `optimizer.variables`, the same on all ranks.

    Returns:
        An array for each, in their order: what `set_weights` of the unsharded model takes, if it
        has the same layers. A model with `ScatterSequence` in it may list its weights in another
        order than one without, as Keras goes by the depth of layers.

    Example:
        >>> weights = hvd.parallel.unsharded_values(model.weights)
    """
    return [_unsharded(variable) for variable in variables]


def assign_unsharded_values(variables: Sequence[Any], values: Sequence[Any]) -> None:
    """Give variables unsharded values, of which each rank takes its shard, without communication.

    Args:
        variables: such as `model.weights` or `optimizer.variables`.
        values: an array for each, the same on all ranks: what `unsharded_values` returned, with
            this or another tensor degree, or `get_weights` of the unsharded model.

    Raises:
        ValueError: on every rank: a number or a shape is not right; it names the variable. No
            variable has been changed.
    """
    if len(variables) != len(values):
        raise ValueError(f"there are {len(values)} values for {len(variables)} variables.")
    for variable, value in zip(variables, values, strict=True):
        layout = layout_of(variable)
        shape = tuple(variable.shape)
        expected = shape if layout is None else layout.unsharded_shape(shape)
        if np.shape(value) != expected:
            raise ValueError(
                f"unsharded, {variable.path} has shape {expected}, its value {np.shape(value)}."
            )
    for variable, value in zip(variables, values, strict=True):
        layout, array = layout_of(variable), np.asarray(value)
        variable.assign(array if layout is None else layout.shard_of(array))


def whole_values(variables: Sequence[Any]) -> list[np.ndarray]:
    """The old name of `unsharded_values`."""
    warnings.warn("whole_values is called unsharded_values now.", DeprecationWarning, stacklevel=2)
    return unsharded_values(variables)


def assign_whole_values(variables: Sequence[Any], values: Sequence[Any]) -> None:
    """The old name of `assign_unsharded_values`."""
    warnings.warn(
        "assign_whole_values is called assign_unsharded_values now.",
        DeprecationWarning,
        stacklevel=2,
    )
    assign_unsharded_values(variables, values)


def _unsharded(variable: Any) -> np.ndarray:
    layout = layout_of(variable)
    value = tf.convert_to_tensor(variable.value)
    if layout is not None:
        for axis, dimension in layout.sharded_axes():
            value = _gathered(value, layout.mesh.set_along(axis), dimension)
    return np.asarray(value)


def _gathered(shard: tf.Tensor, ranks: ProcessSet, dimension: int) -> np.ndarray:
    with tf.init_scope():
        stacked = ops.allgather(
            tf.convert_to_tensor(shard)[tf.newaxis], name="hvdkit.whole_values", process_set=ranks
        )
    return np.concatenate(list(np.asarray(stacked)), axis=dimension)
