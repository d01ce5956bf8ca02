"""Dense layers that are sharded over ranks, by columns and by rows of the kernel.

The first layer of a pair shards its units and needs no communication forward, the second shards
its inputs and adds up at its end: two collectives for the pair, one forward and one backward.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from hvdkit.mesh.layout import Layout
from hvdkit.mesh.mesh import Mesh
from hvdkit.parallel.tensor.conjugate import (
    SEQUENCE,
    copy_to_group,
    gather_sequence,
    gather_shards,
    reduce_over_group,
    reduce_scatter_sequence,
    take_shard,
)
from hvdkit.parallel.tensor.degrees import require_divisible, sequence_shard_size
from hvdkit.parallel.tensor.sharded_layer import TensorParallel

_NEED_ALL_UNITS = tuple(
    getattr(keras.activations, name) for name in ("softmax", "log_softmax", "sparsemax", "glu")
)


@keras.saving.register_keras_serializable(package="hvdkit")
class ColumnParallelDense(TensorParallel, keras.layers.Dense):
    """`keras.layers.Dense` whose units are sharded over the ranks of a tensor group.

    Input: the same on all ranks of the group, [..., features]; with `sequence_parallel`
    this rank's shard of the sequence, [batch, sequence / tensor, features].
    Output: this rank's units, [..., units / tensor], or all with `gather_output`; of the
    unsharded sequence.

    Args:
        units: number of units of the unsharded layer; divides by the tensor degree.
        *args: further arguments of `keras.layers.Dense`.
        gather_output: gather the units of all ranks at the end.
        sequence_parallel: the input is sharded along the sequence.
        mesh: see `TensorParallel`; without one it is Keras's layer.
        **kwargs: further arguments of `keras.layers.Dense`.

    Raises:
        ValueError: when it is built, on every rank: the units do not divide; the activation needs
            all units at once.

    Source: Megatron-LM, arXiv 1909.08053, section 3.

    Example:
        >>> x = hvd.parallel.ColumnParallelDense(4096, activation="gelu")(x)
        >>> x = hvd.parallel.RowParallelDense(1024)(x)
    """

    def __init__(
        self,
        units: int,
        *args: Any,
        gather_output: bool = False,
        sequence_parallel: bool = False,
        mesh: Mesh | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, *args, mesh=mesh, **kwargs)
        self.gather_output = gather_output
        self.sequence_parallel = sequence_parallel

    def weight_layout(self, name: str, mesh: Mesh) -> Layout:
        """Columns of the kernel and their biases."""
        return Layout(mesh, {"tensor": {"kernel": 1, "bias": 0}[name]})

    def build(self, input_shape: Any) -> None:
        """Make this rank's columns of the kernel and their biases."""
        mesh = self.settle_mesh()
        if mesh is not None:
            require_divisible(f"units of {self.label}", self.units, mesh)
            if self.activation in _NEED_ALL_UNITS and not self.gather_output:
                raise ValueError(
                    f"the activation {self.activation.__name__} of {self.label} needs all units "
                    "at once, and each rank has some: use gather_output=True."
                )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """This rank's units, or all of them."""
        mesh = self.mesh
        if mesh is None:
            return super().call(inputs, training=training)
        enter = gather_sequence if self.sequence_parallel else copy_to_group
        outputs = keras.ops.matmul(enter(inputs, mesh), self.kernel)
        if self.bias is not None:
            outputs = keras.ops.add(outputs, self.bias)
        if self.gather_output:
            outputs = gather_shards(outputs, mesh, axis=-1)
        return outputs if self.activation is None else self.activation(outputs)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """The shape of what this rank gives."""
        shape = list(input_shape)
        shape[-1] = self.units
        if self.mesh is not None:
            if self.sequence_parallel:
                shape[SEQUENCE] = _times(shape[SEQUENCE], self.mesh.tensor)
            if not self.gather_output:
                shape[-1] //= self.mesh.tensor
        return tuple(shape)

    def get_config(self) -> dict[str, Any]:
        """The layer's arguments, without the mesh."""
        own = {"gather_output": self.gather_output, "sequence_parallel": self.sequence_parallel}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="hvdkit")
class RowParallelDense(TensorParallel, keras.layers.Dense):
    """`keras.layers.Dense` whose input features are sharded over the ranks of a tensor group.

    Input: this rank's features, [..., features / tensor], as `ColumnParallelDense` gives them, or
    all without `input_is_parallel`.
    Output: the same on all ranks of the group, [..., units]; with `sequence_parallel` this
    rank's shard of the sequence, [batch, sequence / tensor, units].

    Args:
        units: number of units.
        *args: further arguments of `keras.layers.Dense`.
        input_is_parallel: whether the input is this rank's features only.
        sequence_parallel: shard the output along the sequence.
        mesh: see `TensorParallel`; without one it is Keras's layer.
        **kwargs: further arguments of `keras.layers.Dense`.

    Raises:
        ValueError: on every rank, when it is built or called: the features, or the length of the
            sequence, do not divide.

    Source: Megatron-LM, arXiv 1909.08053, section 3.
    """

    def __init__(
        self,
        units: int,
        *args: Any,
        input_is_parallel: bool = True,
        sequence_parallel: bool = False,
        mesh: Mesh | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, *args, mesh=mesh, **kwargs)
        self.input_is_parallel = input_is_parallel
        self.sequence_parallel = sequence_parallel

    def weight_layout(self, name: str, mesh: Mesh) -> Layout | None:
        """Rows of the kernel; the bias is unsharded."""
        if name == "kernel":
            return Layout(mesh, {"tensor": 0})
        return Layout(mesh, partial=frozenset({"tensor"})) if self.sequence_parallel else None

    def get_build_config(self) -> dict[str, Any]:
        """The shape of the unsharded layer's input, so that files do not depend on the mesh."""
        return {"input_shape": self._unsharded_input}

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Build the layer for its shard of that input."""
        shape, mesh = config["input_shape"], self.mesh
        if mesh is not None and self.input_is_parallel:
            shape = (*shape[:-1], shape[-1] // mesh.tensor)
        self.build(shape)

    def build(self, input_shape: Any) -> None:
        """Make this rank's rows of the kernel, and the bias."""
        mesh, features = self.settle_mesh(), input_shape[-1]
        if mesh is not None and self.input_is_parallel:
            input_shape = (*input_shape[:-1], features * mesh.tensor)
        self._unsharded_input = tuple(input_shape)
        if mesh is not None:
            require_divisible(f"number of input features of {self.label}", input_shape[-1], mesh)
        super().build(input_shape)
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: features})

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """All units, for the unsharded sequence or this rank's shard."""
        mesh = self.mesh
        if mesh is None:
            return super().call(inputs, training=training)
        if not self.input_is_parallel:
            inputs = take_shard(inputs, mesh, axis=-1)
        leave = reduce_scatter_sequence if self.sequence_parallel else reduce_over_group
        outputs = leave(keras.ops.matmul(inputs, self.kernel), mesh)
        if self.bias is not None:
            outputs = keras.ops.add(outputs, self.bias)
        return outputs if self.activation is None else self.activation(outputs)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """The shape of what this rank gives."""
        shape = [*input_shape[:-1], self.units]
        if self.mesh is not None and self.sequence_parallel:
            shape[SEQUENCE] = sequence_shard_size(shape[SEQUENCE], self.label, self.mesh)
        return tuple(shape)

    def get_config(self) -> dict[str, Any]:
        """The layer's arguments, without the mesh."""
        own = {
            "input_is_parallel": self.input_is_parallel,
            "sequence_parallel": self.sequence_parallel,
        }
        return {**super().get_config(), **own}


def _times(length: int | None, ranks: int) -> int | None:
    return None if length is None else length * ranks
