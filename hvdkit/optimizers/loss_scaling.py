"""Loss scaling over ranks: all of them skip a step, or none does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from hvdkit.data.batch_scale import current_scale
from hvdkit.engine import Min, ops
from hvdkit.engine.local_replicas import once, summed_over_replicas
from hvdkit.optimizers.composition import attached_to, chains, is_distributed, leaves
from hvdkit.patches import Patch


def check_finite(original: Callable[..., Any], optimizer: Any, grads: Any) -> tf.Tensor:
    """Whether the gradients are finite on all ranks, and their devices, that have others."""
    finite = original(optimizer, grads)
    asked = [
        chain.agreed_by or chain.ranks
        for chain in chains(optimizer)
        if chain.agreed_by is not None or chain.active
    ]
    if not asked:
        return finite
    process_set = asked[0]

    def on_all_ranks(here: tf.Tensor) -> tf.Tensor:
        number = tf.cast(here, tf.int32)
        everywhere = ops.allreduce(number, Min, name="hvdkit_finite", process_set=process_set)
        return tf.cast(everywhere, tf.bool)

    [bad] = summed_over_replicas([tf.cast(~finite, tf.float32)])
    return once(on_all_ranks, tf.equal(bad, 0))


def scale_loss(original: Callable[..., Any], optimizer: Any, loss: tf.Tensor) -> tf.Tensor:
    """The loss times the scale, and times what the rows of this rank's batch count."""
    loss = original(optimizer, loss)
    scale = current_scale()
    if scale is None or attached_to(optimizer) is not None or not is_distributed(optimizer):
        return loss
    return scale.scaled(loss, leaves(optimizer))


PATCHES = (
    Patch(
        keras.optimizers.LossScaleOptimizer,
        "check_finite",
        check_finite,
        "all ranks skip a step whose gradients are not finite, or none does",
    ),
    Patch(
        keras.optimizers.LossScaleOptimizer,
        "scale_loss",
        scale_loss,
        "a short batch of sharded data counts as many rows as it has",
    ),
)
