"""The cross entropy of logits of which each rank made a shard: they need not be gathered for it.

A divided model returns all logits, so that any loss, metric and `predict` work. They remember the
shards that they were gathered from, and the cross entropy takes these. What nobody else needs is
not computed: TensorFlow leaves the gathering out of the graph of a step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from hvdkit import patches
from hvdkit.mesh.mesh import Mesh
from hvdkit.parallel.tensor.conjugate import gather_shards
from hvdkit.parallel.tensor.loss import VocabularyParallelCrossEntropy
from hvdkit.patches import Patch

_ATTRIBUTE = "_hvdkit_shard"


def gathered(shard: tf.Tensor, mesh: Mesh, axis: int) -> tf.Tensor:
    """Shards, gathered along an axis; along the last one the result remembers this rank's."""
    whole = gather_shards(shard, mesh, axis)
    if axis in (-1, shard.shape.rank - 1):
        patches.install(_PATCH)
        setattr(whole, _ATTRIBUTE, (shard, mesh))
    return whole


def _cross_entropy(
    original: Callable[..., Any], loss: Any, y_true: tf.Tensor, y_pred: tf.Tensor
) -> Any:
    logits = y_pred if loss.from_logits else getattr(y_pred, "_keras_logits", None)
    shard, mesh = getattr(logits, _ATTRIBUTE, (None, None))
    if shard is None or loss._fn_kwargs.get("axis", -1) not in (-1, y_pred.shape.rank - 1):
        return original(loss, y_true, y_pred)
    own = VocabularyParallelCrossEntropy(loss.ignore_class, reduction=None, mesh=mesh)
    return own.call(tf.convert_to_tensor(y_true), tf.cast(shard, y_pred.dtype))


_PATCH = Patch(
    keras.losses.SparseCategoricalCrossentropy,
    "call",
    _cross_entropy,
    "the cross entropy takes the shards that logits were gathered from",
)
