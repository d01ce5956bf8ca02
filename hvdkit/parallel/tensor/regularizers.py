"""Penalties on weights of which ranks hold shards, or terms of the gradient."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from hvdkit.mesh.layout import Layout
from hvdkit.mesh.mesh import Mesh
from hvdkit.parallel.tensor.conjugate import reduce_over_group

_SUMS = (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2)


def sharded_regularizer(regularizer: Any, layout: Layout) -> Any:
    """A regularizer whose penalty is that of the unsharded weight, and so is its gradient.

    Args:
        regularizer: what Keras takes as one, or None.
        layout: how the weight lies over the ranks.

    Raises:
        ValueError: the penalty on a sharded weight is no sum over its elements.
    """
    regularizer = keras.regularizers.get(regularizer)
    if regularizer is None:
        return None
    if not layout.shards:
        return _Shared(regularizer, layout.mesh)
    if not isinstance(regularizer, _SUMS):
        raise ValueError(
            f"the regularizer {type(regularizer).__name__} can't be sharded over ranks: "
            "use L1, L2 or L1L2, whose penalties are sums over the elements, or tensor=1."
        )
    return _Summed(regularizer, layout.mesh)


class _Summed(keras.regularizers.Regularizer):
    """The sum of the penalties on the ranks' shards."""

    def __init__(self, regularizer: Any, mesh: Mesh) -> None:
        self.regularizer = regularizer
        self.mesh = mesh

    def __call__(self, x: Any) -> tf.Tensor:
        return reduce_over_group(self.regularizer(x), self.mesh)


class _Shared(keras.regularizers.Regularizer):
    """The penalty on an unsharded weight whose gradients are summed: each rank has a share."""

    def __init__(self, regularizer: Any, mesh: Mesh) -> None:
        self.regularizer = regularizer
        self.mesh = mesh

    def __call__(self, x: Any) -> tf.Tensor:
        penalty = self.regularizer(x)
        share = penalty / self.mesh.tensor
        return share + tf.stop_gradient(penalty - share)
