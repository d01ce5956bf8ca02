"""What layers become when a model is divided: the same objects, of classes that hold shards.

A layer is known to many: to the graph of its model, to the attributes and lists of a composite
layer around it, to the user. So it is not replaced. It becomes an object of a subclass of its own
class, which has the same name, arguments and files, and which communicates.
"""

from __future__ import annotations

import functools
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.keras_internals import (
    CALL_CONTEXT,
    global_attribute,
    save_under_name_of,
    set_keras_mask,
)
from hvdkit.mesh.layout import Layout, layout_of
from hvdkit.mesh.mesh import Mesh
from hvdkit.parallel.automatic.kinds import Columns, Dropped, Gathered, Role, Row
from hvdkit.parallel.automatic.logits import gathered
from hvdkit.parallel.automatic.shards import Sharding, whole_shape
from hvdkit.parallel.tensor.conjugate import copy_to_group, reduce_over_group
from hvdkit.parallel.tensor.dropout import drop_shard
from hvdkit.parallel.tensor.vocabulary import own_rows
from hvdkit.state.broadcast import broadcast_variables


class DividedLayer(keras.layers.Layer):
    """Mixin of a layer that holds shards of its weights; before the layer's own class.

    Attributes:
        hvdkit_mesh: the mesh over whose tensor groups it is sharded.
        hvdkit_role: how.
    """

    hvdkit_mesh: Mesh
    hvdkit_role: Any

    def layouts(self) -> dict[str, Layout]:
        """How each attribute that is a weight lies over the ranks."""
        raise NotImplementedError

    def shard(self) -> list[Sharding]:
        """Let the weights become shards, those that no other layer has let."""
        return [
            Sharding(variable, layout)
            for name, layout in self.layouts().items()
            if (variable := getattr(self, name, None)) is not None and layout_of(variable) is None
        ]

    def enable_lora(self, rank: int, *args: Any, **kwargs: Any) -> None:
        """As in Keras, with adapters that are divided as the kernel; all ranks call it."""
        layout = layout_of(self._kernel_variable)
        # Keras asks for adapters of the kernel as it is; they are made for the whole one.
        with whole_shape(self._kernel_variable, layout):
            super().enable_lora(rank, *args, **kwargs)
        first, second = self._adapters()
        broadcast_variables([first, second], 0)
        for sharding in self.shard():
            sharding.settle()

    def load_own_variables(self, store: Any) -> None:
        """Take this rank's shard of the weights in a file."""
        shards = {key: store[key] for key in store.keys()}  # noqa: SIM118 (a store is no mapping)
        for number, variable in enumerate(self._in_files()):
            layout = layout_of(variable)
            if layout is not None and str(number) in shards:
                shards[str(number)] = layout.shard_of(np.asarray(shards[str(number)]))
        super().load_own_variables(shards)

    @property
    def _kernel_variable(self) -> Any:
        return self._kernel

    def _adapters(self) -> tuple[Any, Any]:
        return self.lora_kernel_a, self.lora_kernel_b

    def _in_files(self) -> list[Any]:
        return [self._kernel, *([] if self.bias is None else [self.bias])]

    def _along(self, axis: int) -> Layout:
        return Layout(self.hvdkit_mesh, {"tensor": axis})

    def _adapter_layouts(self, axis: int) -> dict[str, Layout]:
        """Layouts of two adapters whose product is sharded along an axis of the kernel.

        The one that has not the axis is whole, and each rank has a term of its gradient.
        """
        term = Layout(self.hvdkit_mesh, partial=frozenset({"tensor"}))
        if axis == len(self._kernel.shape) - 1:
            return {"lora_kernel_a": term, "lora_kernel_b": self._along(1)}
        return {"lora_kernel_a": self._along(axis), "lora_kernel_b": term}


class _Columns(DividedLayer):
    """A projection that gives this rank's outputs."""

    @property
    def _columns(self) -> Columns:
        role = self.hvdkit_role
        return role.columns if isinstance(role, Gathered) else role

    def layouts(self) -> dict[str, Layout]:
        """Outputs of the kernel, and their biases."""
        columns = self._columns
        bias = {} if columns.bias is None else {"bias": self._along(columns.bias)}
        return {"_kernel": self._along(columns.kernel), **bias} | self._adapter_layouts(
            columns.kernel
        )

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """This rank's outputs, or all of them."""
        mesh = self.hvdkit_mesh
        outputs = _projected(self, _entered(inputs, mesh))
        if self.bias is not None:
            outputs = keras.ops.add(outputs, self.bias)
        if isinstance(self.hvdkit_role, Gathered):
            outputs = gathered(outputs, mesh, self._columns.output)
        return outputs if self.activation is None else self.activation(outputs)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """The shape of what this rank gives."""
        shape = list(super().compute_output_shape(input_shape))
        if not isinstance(self.hvdkit_role, Gathered):
            shape[self._columns.output] //= self.hvdkit_mesh.tensor
        return tuple(shape)


class _Rows(DividedLayer):
    """A projection that adds up over the ranks what it makes of this rank's inputs."""

    def layouts(self) -> dict[str, Layout]:
        """The kernel's part for this rank's inputs; the bias is whole."""
        axis = self.hvdkit_role.kernel
        return {"_kernel": self._along(axis)} | self._adapter_layouts(axis)

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """All outputs."""
        outputs = reduce_over_group(_projected(self, inputs), self.hvdkit_mesh)
        if self.bias is not None:
            outputs = keras.ops.add(outputs, self.bias)
        return outputs if self.activation is None else self.activation(outputs)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """The shape of all outputs."""
        shape = list(input_shape)
        axis = self.hvdkit_role.input
        if shape[axis] is not None:
            shape[axis] *= self.hvdkit_mesh.tensor
        return tuple(super().compute_output_shape(tuple(shape)))


class _Embedding(DividedLayer):
    """An embedding with this rank's rows."""

    def layouts(self) -> dict[str, Layout]:
        """Rows of the embeddings, columns of those that are only for the reverse."""
        term = Layout(self.hvdkit_mesh, partial=frozenset({"tensor"}))
        return {
            "_embeddings": self._along(0),
            "reverse_embeddings": self._along(1),
            "lora_embeddings_a": self._along(0),
            "lora_embeddings_b": term,
        }

    @property
    def _kernel_variable(self) -> Any:
        return self._embeddings

    def _adapters(self) -> tuple[Any, Any]:
        return self.lora_embeddings_a, self.lora_embeddings_b

    def _in_files(self) -> list[Any]:
        reverse = getattr(self, "reverse_embeddings", None)
        return [self._embeddings, *([] if reverse is None else [reverse])]

    def _looked_up(self, ids: tf.Tensor) -> tf.Tensor:
        mesh = self.hvdkit_mesh
        if ids.dtype not in (tf.int32, tf.int64):
            ids = tf.cast(ids, tf.int32)
        rows, own = own_rows(ids, self.input_dim // mesh.tensor, mesh)
        vectors = tf.gather(tf.convert_to_tensor(self.embeddings), rows)
        vectors = tf.where(own[..., tf.newaxis], vectors, tf.zeros_like(vectors))
        return reduce_over_group(tf.cast(vectors, self.compute_dtype), mesh)


class _PlainEmbedding(_Embedding):
    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """The vectors of all ids."""
        return self._looked_up(inputs)


class _ReversibleEmbedding(_Embedding):
    def call(self, inputs: tf.Tensor, reverse: bool = False) -> tf.Tensor:
        """The vectors of all ids; reverse: all logits."""
        mesh = self.hvdkit_mesh
        if reverse:
            shard = super().call(copy_to_group(inputs, mesh), reverse=True)
            return gathered(shard, mesh, -1)
        vectors = self._looked_up(inputs)
        if self.mask_zero:
            set_keras_mask(vectors, keras.ops.not_equal(inputs, 0))
        return vectors


class _Dropout(DividedLayer):
    """Dropout of shards: as the whole is dropped."""

    def layouts(self) -> dict[str, Layout]:
        """None: it has no weights."""
        return {}

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The shard with elements dropped, if training."""
        if not training or self.rate == 0:
            return inputs
        return drop_shard(inputs, self, self.hvdkit_mesh, self.hvdkit_role.axis)


def _entered(tensor: tf.Tensor, mesh: Mesh) -> tf.Tensor:
    """A tensor for layers that are sharded, whose gradients of it add up: once for all of them.

    Query, key and value are made of one tensor, and so need one collective backward. That it is
    known is kept for as long as the call of the outermost layer lasts.
    """
    context = global_attribute(CALL_CONTEXT)
    if context is None:
        return copy_to_group(tensor, mesh)
    known: dict[Any, Any] = vars(context).setdefault("_hvdkit_entered", {})
    # In the branch of a condition a tensor belongs to another graph.
    key = id(tensor), id(None if tf.executing_eagerly() else tf.compat.v1.get_default_graph())
    if key not in known:
        known[key] = tensor, copy_to_group(tensor, mesh)
    return known[key][1]


def divide(layer: Any, role: Role, mesh: Mesh) -> list[Sharding]:
    """Let a layer become one that holds shards; returns the variables that became some."""
    vars(layer).update(hvdkit_mesh=mesh, hvdkit_role=role)
    own: Any = type(layer)
    object.__setattr__(layer, "__class__", _subclass(_mixin(layer, role), own))
    # Horovod's operations do not compile under XLA.
    vars(layer)["supports_jit"] = False
    if isinstance(role, Row) and not isinstance(layer, keras.layers.EinsumDense):
        layer.input_spec = keras.layers.InputSpec(min_ndim=2)
    return layer.shard()  # type: ignore[no-any-return]


def undo(layer: Any) -> None:
    """Let a divided layer be of its own class again; its variables are whole again before."""
    role = layer.hvdkit_role
    object.__setattr__(layer, "__class__", type(layer).__bases__[1])
    for name in ("hvdkit_mesh", "hvdkit_role"):
        del vars(layer)[name]
    vars(layer)["supports_jit"] = True
    if isinstance(role, Row) and not isinstance(layer, keras.layers.EinsumDense):
        layer.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: layer.kernel.shape[0]})


def _mixin(layer: Any, role: Role) -> type:
    if isinstance(role, (Columns, Gathered)):
        return _Columns
    if isinstance(role, Row):
        return _Rows
    if isinstance(role, Dropped):
        return _Dropout
    reversible = isinstance(layer, keras.layers.ReversibleEmbedding)
    return _ReversibleEmbedding if reversible else _PlainEmbedding


@functools.cache
def _subclass(mixin: Any, own: Any) -> type:
    """A class that files and messages call as the layer's own."""
    names = {"__module__": own.__module__, "__qualname__": own.__qualname__, "__doc__": own.__doc__}
    kind = type(own.__name__, (mixin, own), names)
    save_under_name_of(kind, own)
    return kind


def _projected(layer: Any, inputs: tf.Tensor) -> tf.Tensor:
    """The inputs times the kernel that this rank has."""
    if isinstance(layer, keras.layers.EinsumDense):
        return keras.ops.einsum(layer.equation, inputs, layer.kernel)
    return keras.ops.matmul(inputs, layer.kernel)
