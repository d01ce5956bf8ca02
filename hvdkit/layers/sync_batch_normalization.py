"""Batch normalization over the batches of all ranks."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from hvdkit.data.batch_scale import current_scale
from hvdkit.engine import Sum, is_initialized, ops, topology
from hvdkit.engine.local_replicas import local_replicas, once, summed_over_replicas
from hvdkit.mesh.mesh import replicas


@keras.saving.register_keras_serializable(package="hvdkit")
class SyncBatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` whose mean and variance are those of the global batch.

    Ranks with different numbers of rows are weighted by them, and so are the local devices of each
    rank (`MirroredStrategy`). With one rank it is Keras's layer.

    Args:
        fused: kept for scripts written for Horovod; only False.
        **kwargs: the arguments of `keras.layers.BatchNormalization`.

    Raises:
        ValueError: `fused=True`, or `synchronized=True`, which is for `tf.distribute`.
    """

    def __init__(self, fused: bool = False, **kwargs: Any) -> None:
        if fused:
            raise ValueError("SyncBatchNormalization has no fused=True.")
        if kwargs.pop("synchronized", False):
            raise ValueError(
                "SyncBatchNormalization is synchronized over ranks; "
                "synchronized=True is for tf.distribute."
            )
        super().__init__(**kwargs)

    def _moments(self, inputs: tf.Tensor, mask: Any) -> tuple[tf.Tensor, tf.Tensor]:
        if not is_initialized() or topology.process_set_size(replicas()) == 1:
            mean, variance = super()._moments(inputs, mask)
            return mean, variance
        # Sums of deviations from the moving mean, which is the same on all ranks: one exchange,
        # and the difference below does not cancel where the mean is large.
        shift = tf.stop_gradient(tf.cast(self.moving_mean.value, inputs.dtype))
        deviation = inputs - tf.reshape(shift, self._broadcast_shape(inputs))
        weights = tf.broadcast_to(_weights(inputs, mask), tf.shape(inputs))
        axes = self._reduction_axes
        own = tf.stack(
            [
                tf.reduce_sum(weights, axes),
                tf.reduce_sum(deviation * weights, axes),
                tf.reduce_sum(deviation * deviation * weights, axes),
            ]
        )
        sums = _sum_over_all(own) if local_replicas() > 1 else _sum_over_ranks(own)
        count, total, squares = tf.unstack(sums)
        mean = total / count
        return shift + mean, squares / count - mean * mean

    def _broadcast_shape(self, inputs: tf.Tensor) -> list[int]:
        shape = [1] * inputs.shape.rank
        shape[self.axis] = inputs.shape[self.axis]
        return shape

    def get_config(self) -> dict[str, Any]:
        """The layer's arguments."""
        config: dict[str, Any] = super().get_config()
        config.pop("synchronized", None)
        return config


def _sum_over_ranks(own: tf.Tensor) -> tf.Tensor:
    return ops.allreduce(own, Sum, name="hvdkit_moments", process_set=replicas())


@tf.autograph.experimental.do_not_convert
@tf.custom_gradient
def _sum_over_all(own: tf.Tensor) -> Any:
    """The sum over the local devices of all ranks; its gradient is the same sum, as of any sum.

    A rank asks the others where its devices meet, which the tape of a device does not see.
    """

    def summed(tensor: tf.Tensor) -> tf.Tensor:
        [here] = summed_over_replicas([tensor])
        return once(_sum_over_ranks, here)

    return summed(own), summed


def _weights(inputs: tf.Tensor, mask: Any) -> tf.Tensor:
    """What each position counts, of a shape that broadcasts to `inputs`."""
    weights = tf.ones([1] * inputs.shape.rank, inputs.dtype)
    if mask is not None:
        weights = tf.expand_dims(tf.cast(mask, inputs.dtype), -1)
    scale = current_scale()
    if scale is not None:  # a padding row does not count
        weights *= tf.cast(scale.is_real, inputs.dtype)
    return weights
