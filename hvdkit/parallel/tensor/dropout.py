"""Dropout of parts of a tensor.

Each rank draws the mask of the whole tensor and takes its part, so masks do not depend on how many
ranks divide it. That takes the memory of one whole mask for a moment; the part is what is kept.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from hvdkit.mesh.mesh import Mesh
from hvdkit.parallel.tensor.collectives import own_part
from hvdkit.parallel.tensor.degrees import dividing_mesh


def drop_part(inputs: tf.Tensor, dropout: keras.layers.Dropout, mesh: Mesh, axis: int) -> tf.Tensor:
    """Drop elements of this rank's part of a tensor, as they are dropped in the whole.

    Args:
        inputs: this rank's part along `axis`.
        dropout: how much of it, and the seeds, the same on all ranks of the group.
        mesh: the mesh.
        axis: the axis along which the ranks hold parts.
    """
    shape = tf.unstack(tf.shape(inputs))
    shape[axis] *= mesh.tensor
    whole = keras.random.dropout(
        tf.ones(tf.stack(shape), inputs.dtype),
        dropout.rate,
        noise_shape=dropout.noise_shape,
        seed=dropout.seed_generator,
    )
    whole = tf.ensure_shape(whole, [None] * inputs.shape.rank)
    return inputs * own_part(whole, mesh, axis)


@keras.saving.register_keras_serializable(package="hvdkit")
class PartDropout(keras.layers.Dropout):
    """`keras.layers.Dropout` of activations of which each rank of a tensor group holds a part.

    Where activations are the same on all ranks of the group, Keras's own is right: with
    `hvd.set_random_seed` the ranks of a group draw the same masks.

    Input and output: this rank's part.

    Args:
        rate: fraction of the elements to drop.
        *args: further arguments of `keras.layers.Dropout`; `noise_shape` is for the whole.
        axis: the axis along which the ranks hold parts: 1 for the sequence, -1 for the units
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
        """The part with elements dropped, if training."""
        mesh = dividing_mesh(self._given_mesh)
        if mesh is None or not training or self.rate == 0:
            return super().call(inputs, training=training)
        return drop_part(inputs, self, mesh, self.axis)

    def get_config(self) -> dict[str, Any]:
        """The layer's arguments, without the mesh."""
        return {**super().get_config(), "axis": self.axis}
