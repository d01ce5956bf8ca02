"""Dropout of sharded tensors.

Each rank draws the mask of the unsharded tensor and takes its shard, so masks do not depend on the
number of ranks. That takes the memory of one such mask for a moment; the shard is what is kept.
"""

from __future__ import annotations

import warnings
from typing import Any

import keras
import tensorflow as tf

from hvdkit.mesh.mesh import Mesh
from hvdkit.parallel.tensor.collectives import own_shard
from hvdkit.parallel.tensor.degrees import sharding_mesh


def drop_shard(
    inputs: tf.Tensor, dropout: keras.layers.Dropout, mesh: Mesh, axis: int
) -> tf.Tensor:
    """Drop elements of this rank's shard of a tensor, as they are dropped in the unsharded one.

    Args:
        inputs: this rank's shard along `axis`.
        dropout: how much of it, and the seeds, the same on all ranks of the group.
        mesh: the mesh.
        axis: the axis along which the ranks hold shards.
    """
    shape = tf.unstack(tf.shape(inputs))
    shape[axis] *= mesh.tensor
    mask = keras.random.dropout(
        tf.ones(tf.stack(shape), inputs.dtype),
        dropout.rate,
        noise_shape=dropout.noise_shape,
        seed=dropout.seed_generator,
    )
    mask = tf.ensure_shape(mask, [None] * inputs.shape.rank)
    return inputs * own_shard(mask, mesh, axis)


@keras.saving.register_keras_serializable(package="hvdkit")
class ShardedDropout(keras.layers.Dropout):
    """`keras.layers.Dropout` of activations that are sharded over a tensor group.

    Where activations are the same on all ranks of the group, Keras's own is right: with
    `hvd.set_random_seed` the ranks of a group draw the same masks.

    Input and output: this rank's shard.

    Args:
        rate: fraction of the elements to drop.
        *args: further arguments of `keras.layers.Dropout`; `noise_shape` is unsharded.
        axis: the axis along which they are sharded: 1 for the sequence, -1 for the units
            between `ColumnParallelDense` and `RowParallelDense`.
        mesh: whose tensor group; None for the current mesh when it is called. Without one it is
            Keras's layer.
        **kwargs: further arguments of `keras.layers.Dropout`.
    """

    def __init__(
        self, rate: float, *args: Any, axis: int = 1, mesh: Mesh | None = None, **kwargs: Any
    ) -> None:
        super().__init__(rate, *args, **kwargs)
        self.axis = axis
        self._given_mesh = mesh

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The shard with elements dropped, if training."""
        mesh = sharding_mesh(self._given_mesh)
        if mesh is None or not training or self.rate == 0:
            return super().call(inputs, training=training)
        return drop_shard(inputs, self, mesh, self.axis)

    def get_config(self) -> dict[str, Any]:
        """The layer's arguments, without the mesh."""
        return {**super().get_config(), "axis": self.axis}


@keras.saving.register_keras_serializable(package="hvdkit")
class PartDropout(ShardedDropout):
    """The old name of `ShardedDropout`; files that have it load."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        warnings.warn("PartDropout is called ShardedDropout now.", DeprecationWarning, stacklevel=2)
        super().__init__(*args, **kwargs)
