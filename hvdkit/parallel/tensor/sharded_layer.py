"""What tensor-parallel layers share: which mesh divides them, and weights of which they hold parts.

A layer's own Keras class asks for whole weights. `add_weight` makes this rank's part of them, with
the values that it has in the whole weight: the initializer draws the whole, so a layer draws the
same random numbers as one that is not divided.
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
from hvdkit.parallel.tensor.collectives import own_part
from hvdkit.parallel.tensor.degrees import dividing_mesh, require_divisible
from hvdkit.parallel.tensor.regularizers import over_ranks


class TensorParallel(keras.layers.Layer):
    """Mixin of a Keras layer that a tensor group divides; stands before the layer's own class.

    A subclass calls `divide` at the beginning of its `build`, and says in `weight_layout` how its
    weights lie over the ranks.

    Args:
        *args: of the layer's own class.
        mesh: whose tensor group divides the layer; None for the current mesh when it is built.
        **kwargs: of the layer's own class.
    """

    def __init__(self, *args: Any, mesh: Mesh | None = None, **kwargs: Any) -> None:
        self._given_mesh = mesh
        super().__init__(*args, **kwargs)
        if dividing_mesh(mesh) is not None:
            self.supports_jit = False  # Horovod's operations do not compile under XLA

    @property
    def mesh(self) -> Mesh | None:
        """The mesh that divides the layer; None while it is whole. It stays once it is built."""
        if self.built:
            mesh: Mesh | None = self._built_mesh
            return mesh
        return dividing_mesh(self._given_mesh)

    def divide(self) -> Mesh | None:
        """Settle which mesh divides the layer, None if none does.

        Raises:
            ValueError: the layer has options that are for whole layers.
        """
        self._built_mesh = mesh = self.mesh
        if mesh is not None:
            patches.install(*saving.PATCHES)
            self.supports_jit = False
            self._refuse_whole_options()
        return mesh

    def weight_layout(self, name: str, mesh: Mesh) -> Layout | None:
        """How the weight `name` lies over the ranks of the mesh; None if whole on each."""
        raise NotImplementedError

    def add_weight(self, *args: Any, name: str | None = None, **kwargs: Any) -> Any:
        """Make this rank's part of a weight; arguments as in Keras, for the whole weight."""
        mesh = self.mesh
        layout = None if mesh is None or name is None else self.weight_layout(name, mesh)
        if layout is None:
            return super().add_weight(*args, name=name, **kwargs)
        if layout.axis is not None:
            whole = tuple(kwargs["shape"])
            size = whole[layout.axis]
            require_divisible(f"axis {layout.axis} of {name} of {self.label}", size, layout.mesh)
            kwargs["shape"] = tuple(
                n // layout.mesh.tensor if i == layout.axis else n for i, n in enumerate(whole)
            )
            kwargs["initializer"] = _PartOfWhole(kwargs.get("initializer"), layout, whole)
        kwargs["regularizer"] = over_ranks(kwargs.get("regularizer"), layout)
        variable = super().add_weight(*args, name=name, **kwargs)
        set_layout(variable, layout)
        return variable

    def load_own_variables(self, store: Any) -> None:
        """Take this rank's part of the whole weights in a file."""
        mesh = self.mesh
        super().load_own_variables(store if mesh is None else self._parts(store, mesh))

    def _parts(self, store: Any, mesh: Mesh) -> dict[str, Any]:
        # Keras numbers the weights of a layer in the order in which it made them.
        parts = {key: store[key] for key in store.keys()}  # noqa: SIM118 (a store is no mapping)
        for number, variable in enumerate(self._trainable_variables):
            layout = layout_of(variable)
            if layout is not None and layout.axis is not None:
                whole = np.asarray(store[str(number)])
                parts[str(number)] = np.split(whole, mesh.tensor, layout.axis)[mesh.tensor_index]
        return parts

    @property
    def label(self) -> str:
        """How errors name the layer."""
        return f"the layer {self.name!r} ({type(self).__name__})"

    def _refuse_whole_options(self) -> None:
        refused = {
            "activity_regularizer": self.activity_regularizer,
            "lora_rank": getattr(self, "lora_rank", None),
            "quantization": self.quantization_mode,
        }
        for option, value in refused.items():
            if value is not None:
                raise ValueError(
                    f"{self.label} is divided over the ranks of a tensor group and can't take "
                    f"{option}={value!r}: leave it out, or use tensor=1."
                )


class _PartOfWhole(keras.initializers.Initializer):
    """Draws a whole weight and takes this rank's part."""

    def __init__(self, initializer: Any, layout: Layout, whole: tuple[int, ...]) -> None:
        self.initializer = keras.initializers.get(initializer or "glorot_uniform")
        self.layout = layout
        self.whole = whole

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> tf.Tensor:
        """This rank's part, of `shape`."""
        assert self.layout.axis is not None
        whole = tf.convert_to_tensor(self.initializer(self.whole, dtype=dtype))
        return tf.ensure_shape(own_part(whole, self.layout.mesh, self.layout.axis), shape)
