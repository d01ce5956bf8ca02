"""Regions in which each rank of a tensor group holds a shard of the sequence.

Between the sharded layers, activations are the same on all ranks of the group. Dividing them along
the sequence saves their memory for the same bytes: instead of an all-reduce at the end of a pair
of layers, a reduce-scatter there and an all-gather at the beginning of the next pair.

Source: Reducing Activation Recomputation in Large Transformer Models, arXiv 2205.05198.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from hvdkit.mesh.layout import Layout, set_layout
from hvdkit.mesh.mesh import Mesh
from hvdkit.parallel.tensor.conjugate import SEQUENCE, gather_shards, take_shard
from hvdkit.parallel.tensor.degrees import sequence_shard_size, sharding_mesh
from hvdkit.parallel.tensor.regularizers import sharded_regularizer


class _RegionEdge(keras.layers.Layer):
    """Where a region begins or ends."""

    def __init__(self, mesh: Mesh | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._given_mesh = mesh
        self.supports_masking = True
        if sharding_mesh(mesh) is not None:
            self.supports_jit = False  # Horovod's operations do not compile under XLA


@keras.saving.register_keras_serializable(package="hvdkit")
class ScatterSequence(_RegionEdge):
    """Give each rank of a tensor group its shard of the sequence; backward the shards are gathered.

    Input: [batch, sequence, ...], the same on all ranks of the group, as is what makes it.
    Output: [batch, sequence / tensor, ...]. Masks stay unsharded.

    Args:
        mesh: whose tensor group; None for the current mesh when it is called. Without one the
            layer does nothing.
        **kwargs: arguments of `keras.layers.Layer`.

    Raises:
        ValueError: on every rank: the length of the sequence does not divide.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """This rank's shard."""
        mesh = sharding_mesh(self._given_mesh)
        return inputs if mesh is None else take_shard(inputs, mesh, SEQUENCE)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """The shape of this rank's shard."""
        mesh, shape = sharding_mesh(self._given_mesh), list(input_shape)
        if mesh is not None:
            label = f"the layer {self.name!r} (ScatterSequence)"
            shape[SEQUENCE] = sequence_shard_size(shape[SEQUENCE], label, mesh)
        return tuple(shape)


@keras.saving.register_keras_serializable(package="hvdkit")
class GatherSequence(_RegionEdge):
    """Join the shards of the sequence, for layers that are not sharded.

    Sharded layers with `sequence_parallel=True` gather by themselves.

    Input: [batch, sequence / tensor, ...], this rank's shard.
    Output: [batch, sequence, ...], the same on all ranks of the group.

    Args:
        mesh: whose tensor group; None for the current mesh when it is called. Without one the
            layer does nothing.
        **kwargs: arguments of `keras.layers.Layer`.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """The unsharded sequence."""
        mesh = sharding_mesh(self._given_mesh)
        return inputs if mesh is None else gather_shards(inputs, mesh, SEQUENCE)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """The shape of the unsharded sequence."""
        mesh, shape = sharding_mesh(self._given_mesh), list(input_shape)
        if mesh is not None and shape[SEQUENCE] is not None:
            shape[SEQUENCE] *= mesh.tensor
        return tuple(shape)


@keras.saving.register_keras_serializable(package="hvdkit")
class SequenceParallel(keras.layers.Wrapper):
    """A layer that treats each position by itself, on this rank's shard of the sequence.

    Its weights are unsharded on every rank, and each rank's gradient of them is its term of a sum,
    which `hvd.DistributedOptimizer` takes. For normalization layers and dense ones; dropout there
    is `ShardedDropout`.

    Args:
        layer: a Keras layer, such as `keras.layers.LayerNormalization()`.
        mesh: whose tensor group; None for the current mesh when it is built. Without one it is
            the layer as it is.
        **kwargs: arguments of `keras.layers.Wrapper`.

    Raises:
        ValueError: on every rank, when it is built: the layer has weights that it updates by
            itself, which would differ between ranks, or draws random numbers.

    Example:
        >>> x = hvd.parallel.SequenceParallel(keras.layers.LayerNormalization())(x)
    """

    def __init__(self, layer: keras.layers.Layer, mesh: Mesh | None = None, **kwargs: Any) -> None:
        super().__init__(layer, **kwargs)
        self._given_mesh = mesh
        self.supports_masking = layer.supports_masking

    def build(self, input_shape: Any = None) -> None:
        """Build the layer and note that its gradients are terms of sums."""
        super().build(input_shape)
        mesh = sharding_mesh(self._given_mesh)
        if mesh is None:
            return
        own = self.layer.non_trainable_variables
        if own and self.layer.trainable:  # not frozen weights
            raise ValueError(
                f"the layer {self.layer.name!r} can't run on shards of the sequence: it changes "
                f"{own[0].path} by itself, and the ranks would differ. Dropout there is "
                "hvd.parallel.ShardedDropout."
            )
        layout = Layout(mesh, partial=frozenset({"tensor"}))
        for variable in self.layer.weights:
            variable.regularizer = sharded_regularizer(variable.regularizer, layout)
            set_layout(variable, layout)

    def call(self, inputs: tf.Tensor, **kwargs: Any) -> tf.Tensor:
        """What the layer gives."""
        return self.layer(inputs, **kwargs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The layer's."""
        return self.layer.compute_output_shape(input_shape)
