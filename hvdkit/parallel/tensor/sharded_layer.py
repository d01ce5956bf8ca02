"""What tensor-parallel layers have in common: the mesh they are sharded over, and sharded weights.

A layer's own Keras class asks for unsharded weights. `add_weight` makes this rank's shard of them,
with the values that it has in the unsharded weight: the initializer draws that one, so a layer
draws the same random numbers as one that is not sharded.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit import patches
from hvdkit.mesh.layout import Layout, layout_of, set_layout
from hvdkit.mesh.mesh import Mesh
from hvdkit.parallel.tensor import saving
from hvdkit.parallel.tensor.collectives import own_shard
from hvdkit.parallel.tensor.degrees import require_divisible, sharding_mesh
from hvdkit.parallel.tensor.regularizers import sharded_regularizer


class TensorParallel(keras.layers.Layer):
    """Mixin of a Keras layer that is sharded over a tensor group; before the layer's own class.

    A subclass calls `settle_mesh` at the beginning of its `build`, and says in `weight_layout` how
    its weights lie over the ranks.

    Args:
        *args: of the layer's own class.
        mesh: whose tensor group it is sharded over; None for the current mesh when it is built.
        **kwargs: of the layer's own class.
    """

    def __init__(self, *args: Any, mesh: Mesh | None = None, **kwargs: Any) -> None:
        self._given_mesh = mesh
        super().__init__(*args, **kwargs)
        if sharding_mesh(mesh) is not None:
            self.supports_jit = False  # Horovod's operations do not compile under XLA

    @property
    def mesh(self) -> Mesh | None:
        """The mesh that the layer is sharded over, or None. It stays once it is built."""
        if self.built:
            mesh: Mesh | None = self._built_mesh
            return mesh
        return sharding_mesh(self._given_mesh)

    def settle_mesh(self) -> Mesh | None:
        """Settle which mesh the layer is sharded over, None if none.

        Raises:
            ValueError: the layer has options that are for unsharded layers.
        """
        self._built_mesh = mesh = self.mesh
        if mesh is not None:
            patches.install(*saving.PATCHES)
            self.supports_jit = False
            self._refuse_unsharded_options()
        return mesh

    def weight_layout(self, name: str, mesh: Mesh) -> Layout | None:
        """How the weight `name` lies over the ranks of the mesh; None if unsharded."""
        raise NotImplementedError

    def add_weight(self, *args: Any, name: str | None = None, **kwargs: Any) -> Any:
        """Make this rank's shard of a weight; arguments as in Keras, for the unsharded weight."""
        mesh = self.mesh
        layout = None if mesh is None or name is None else self.weight_layout(name, mesh)
        if layout is None:
            return super().add_weight(*args, name=name, **kwargs)
        if layout.shards:
            shape = tuple(kwargs["shape"])
            axis = layout.shards["tensor"]
            require_divisible(f"axis {axis} of {name} of {self.label}", shape[axis], layout.mesh)
            kwargs["shape"] = layout.shard_shape(shape)
            kwargs["initializer"] = _ShardOfInitial(kwargs.get("initializer"), layout, shape)
        kwargs["regularizer"] = sharded_regularizer(kwargs.get("regularizer"), layout)
        variable = super().add_weight(*args, name=name, **kwargs)
        set_layout(variable, layout)
        return variable

    def load_own_variables(self, store: Any) -> None:
        """Take this rank's shard of the unsharded weights in a file."""
        super().load_own_variables(store if self.mesh is None else self._shards(store))

    def _shards(self, store: Any) -> dict[str, Any]:
        # Keras numbers the weights of a layer in the order in which it made them.
        shards = {key: store[key] for key in store.keys()}  # noqa: SIM118 (a store is no mapping)
        for number, variable in enumerate(self._trainable_variables):
            layout = layout_of(variable)
            if layout is not None:
                shards[str(number)] = layout.shard_of(np.asarray(store[str(number)]))
        return shards

    @property
    def label(self) -> str:
        """How errors name the layer."""
        return f"the layer {self.name!r} ({type(self).__name__})"

    def _refuse_unsharded_options(self) -> None:
        refused = {
            "activity_regularizer": self.activity_regularizer,
            "lora_rank": getattr(self, "lora_rank", None),
            "quantization": self.quantization_mode,
        }
        for option, value in refused.items():
            if value is not None:
                raise ValueError(
                    f"{self.label} is sharded over the ranks of a tensor group and can't take "
                    f"{option}={value!r}: leave it out, or use tensor=1."
                )


class _ShardOfInitial(keras.initializers.Initializer):
    """Draws an unsharded weight and takes this rank's shard."""

    def __init__(self, initializer: Any, layout: Layout, shape: tuple[int, ...]) -> None:
        self.initializer = keras.initializers.get(initializer or "glorot_uniform")
        self.layout = layout
        self.shape = shape

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> tf.Tensor:
        """This rank's shard, of `shape`."""
        weight = tf.convert_to_tensor(self.initializer(self.shape, dtype=dtype))
        axis = self.layout.shards["tensor"]
        return tf.ensure_shape(own_shard(weight, self.layout.mesh, axis), shape)
