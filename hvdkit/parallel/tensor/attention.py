"""Multi-head attention whose heads are sharded over ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from hvdkit.keras_internals import get_keras_mask, set_keras_mask
from hvdkit.mesh.layout import Layout
from hvdkit.mesh.mesh import Mesh
from hvdkit.parallel.tensor.conjugate import (
    copy_to_group,
    gather_sequence,
    gather_shards,
    reduce_over_group,
    reduce_scatter_sequence,
)
from hvdkit.parallel.tensor.degrees import require_divisible
from hvdkit.parallel.tensor.dropout import drop_shard
from hvdkit.parallel.tensor.sharded_layer import TensorParallel

_HEADS = 1  # the axis of the heads in scores [batch, heads, targets, sources]


@keras.saving.register_keras_serializable(package="hvdkit")
class HeadParallelAttention(TensorParallel, keras.layers.MultiHeadAttention):
    """`keras.layers.MultiHeadAttention` whose heads are sharded over the ranks of a tensor group.

    Input and output: the same on all ranks of the group, [batch, sequence, features]; with
    `sequence_parallel` this rank's shard of the sequence. Masks are for all of it, in both
    cases. Where query, value and key are one tensor, it is copied (or gathered) once.

    Args:
        num_heads: number of heads of the unsharded layer; divides by the tensor degree.
        key_dim: size of a head for query and key.
        *args: further arguments of `keras.layers.MultiHeadAttention`.
        sequence_parallel: input and output are sharded along the sequence.
        mesh: see `TensorParallel`; without one it is Keras's layer.
        **kwargs: further arguments of `keras.layers.MultiHeadAttention`.

    Raises:
        ValueError: on every rank, when it is built or called: the heads, or the length of the
            sequence, do not divide; the inputs are not [batch, sequence, features].

    Source: Megatron-LM, arXiv 1909.08053, section 3.

    Example:
        >>> x = hvd.parallel.HeadParallelAttention(12, 64)(x, x, use_causal_mask=True)
    """

    _dropout_layer: keras.layers.Layer

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        *args: Any,
        sequence_parallel: bool = False,
        mesh: Mesh | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_heads, key_dim, *args, mesh=mesh, **kwargs)
        self.sequence_parallel = sequence_parallel

    def build(self, query_shape: Any, value_shape: Any, key_shape: Any = None) -> None:
        """Make the projections of this rank's heads."""
        mesh = self.settle_mesh()
        if mesh is None:
            super().build(query_shape, value_shape, key_shape)
            return
        require_divisible(f"num_heads of {self.label}", self.num_heads, mesh)
        if any(len(shape) != 3 for shape in (query_shape, value_shape, key_shape or value_shape)):
            raise ValueError(
                f"{self.label} is sharded over the ranks of a tensor group and takes inputs of "
                "shape [batch, sequence, features] only."
            )
        # In the order of Keras's, so that the initializers draw the same numbers.
        self._query_dense = self._into_heads("query", self.key_dim, query_shape, mesh)
        self._key_dense = self._into_heads("key", self.key_dim, key_shape or value_shape, mesh)
        if self._use_gate:
            self._gate_dense = self._into_heads(
                "gate", self.value_dim, query_shape, mesh, activation="sigmoid"
            )
        self._value_dense = self._into_heads("value", self.value_dim, value_shape, mesh)
        self._build_attention(4)
        self._dropout_layer = _HeadDropout(self._dropout_layer, mesh, dtype=self.dtype_policy)
        self._output_dense = self._out_of_heads(query_shape, mesh)

    def _into_heads(
        self, name: str, size: int, shape: Any, mesh: Mesh, activation: str | None = None
    ) -> keras.layers.Layer:
        projection = _HeadProjection(
            "abc,cde->abde",
            output_shape=(None, self.num_heads, size),
            bias_axes="de" if self.use_bias else None,
            activation=activation,
            mesh=mesh,
            name=name,
            **self._get_common_kwargs_for_sublayer(),
        )
        projection.build(shape)
        return projection

    def _out_of_heads(self, query_shape: Any, mesh: Mesh) -> keras.layers.Layer:
        if self._output_shape and len(self._output_shape) > 1:
            raise ValueError(
                f"{self.label} is sharded over the ranks of a tensor group and takes an "
                f"output_shape of one number, not {self._output_shape}."
            )
        (features,) = self._output_shape or (query_shape[-1],)
        projection = _OutputProjection(
            "abcd,cde->abe",
            output_shape=(None, features),
            bias_axes="e" if self.use_bias else None,
            sequence_parallel=self.sequence_parallel,
            mesh=mesh,
            name="attention_output",
            **self._get_common_kwargs_for_sublayer(),
        )
        projection.build((*query_shape[:2], self.num_heads, self.value_dim))
        return projection

    def call(
        self,
        query: tf.Tensor,
        value: tf.Tensor,
        key: tf.Tensor | None = None,
        query_mask: Any = None,
        value_mask: Any = None,
        key_mask: Any = None,
        attention_mask: Any = None,
        return_attention_scores: bool = False,
        training: bool | None = None,
        use_causal_mask: bool = False,
    ) -> Any:
        """Attend with this rank's heads and add up over the ranks; arguments as in Keras."""
        mesh = self.mesh
        if mesh is not None:
            query, value, key = self._entered([query, value, key], mesh)
        result = super().call(
            query,
            value,
            key,
            query_mask=query_mask,
            value_mask=value_mask,
            key_mask=key_mask,
            attention_mask=attention_mask,
            return_attention_scores=return_attention_scores,
            training=training,
            use_causal_mask=use_causal_mask,
        )
        if mesh is None or not return_attention_scores:
            return result
        output, scores = result
        return output, gather_shards(scores, mesh, _HEADS)

    def _entered(self, tensors: Sequence[Any], mesh: Mesh) -> list[Any]:
        """Unsharded tensors for this rank's heads, with their masks; each different one once."""
        enter = gather_sequence if self.sequence_parallel else copy_to_group
        entered: dict[int, Any] = {id(None): None}
        for tensor in tensors:
            if id(tensor) not in entered:
                unsharded = entered[id(tensor)] = enter(tensor, mesh)
                mask = get_keras_mask(tensor)
                if mask is not None:
                    set_keras_mask(unsharded, mask)
        return [entered[id(tensor)] for tensor in tensors]

    def get_config(self) -> dict[str, Any]:
        """The layer's arguments, without the mesh."""
        return {**super().get_config(), "sequence_parallel": self.sequence_parallel}


class _HeadProjection(TensorParallel, keras.layers.EinsumDense):
    """From features to this rank's heads; the features are the same on all ranks."""

    def weight_layout(self, name: str, mesh: Mesh) -> Layout:
        return Layout(mesh, {"tensor": {"kernel": 1, "bias": 0}[name]})

    def build(self, input_shape: Any) -> None:
        self.settle_mesh()
        super().build(input_shape)


class _OutputProjection(TensorParallel, keras.layers.EinsumDense):
    """From this rank's heads to features, added up over the ranks."""

    def __init__(self, *args: Any, sequence_parallel: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sequence_parallel = sequence_parallel

    def weight_layout(self, name: str, mesh: Mesh) -> Layout | None:
        if name == "kernel":
            return Layout(mesh, {"tensor": 0})
        return Layout(mesh, partial=frozenset({"tensor"})) if self.sequence_parallel else None

    def build(self, input_shape: Any) -> None:
        self.settle_mesh()
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        del training
        assert self.mesh is not None
        leave = reduce_scatter_sequence if self.sequence_parallel else reduce_over_group
        outputs = leave(keras.ops.einsum(self.equation, inputs, self.kernel), self.mesh)
        return outputs if self.bias is None else keras.ops.add(outputs, self.bias)


class _HeadDropout(keras.layers.Layer):
    """Dropout of the scores of this rank's heads."""

    def __init__(self, dropout: keras.layers.Dropout, mesh: Mesh, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dropout = dropout
        self._mesh = mesh
        self.supports_masking = True
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if not training or self.dropout.rate == 0:
            return inputs
        return drop_shard(inputs, self.dropout, self._mesh, _HEADS)
