"""An embedding whose vocabulary is sharded over ranks."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from hvdkit.keras_internals import set_keras_mask
from hvdkit.mesh.layout import Layout
from hvdkit.mesh.mesh import Mesh
from hvdkit.parallel.tensor.conjugate import (
    SEQUENCE,
    copy_to_group,
    gather_sequence,
    reduce_over_group,
    reduce_scatter_sequence,
)
from hvdkit.parallel.tensor.degrees import require_divisible, sequence_shard_size
from hvdkit.parallel.tensor.sharded_layer import TensorParallel
from hvdkit.parallel.tensor.vocabulary import own_rows


@keras.saving.register_keras_serializable(package="hvdkit")
class VocabularyParallelEmbedding(TensorParallel, keras.layers.ReversibleEmbedding):
    """`keras.layers.ReversibleEmbedding` whose rows are sharded over the ranks of a tensor group.

    Forward, each rank looks up the ids that it holds, and the results are added up. Called with
    `reverse=True` it gives logits that are sharded along the vocabulary, for
    `VocabularyParallelCrossEntropy`: with the same weights (tied embeddings), or, with
    `tie_weights=False`, with others.

    Input: ids, [batch, sequence]; reverse: [batch, sequence, output_dim], the same on all ranks of
    the group, or with `sequence_parallel` this rank's shard of the sequence.
    Output: [batch, sequence, output_dim], the same on all ranks of the group, or with
    `sequence_parallel` this rank's shard of the sequence; reverse: this rank's logits, [batch,
    sequence, input_dim / tensor].

    Args:
        input_dim: size of the unsharded vocabulary; divides by the tensor degree.
        output_dim: size of the vectors.
        *args: further arguments of `keras.layers.ReversibleEmbedding`, `tie_weights` first.
        sequence_parallel: the layers around it run on this rank's shard of the sequence.
        mesh: see `TensorParallel`; without one it is Keras's layer.
        **kwargs: further arguments of `keras.layers.ReversibleEmbedding`.

    Raises:
        ValueError: on every rank, when it is built or called: the vocabulary, or the length of
            the sequence, does not divide.

    Source: Megatron-LM, arXiv 1909.08053, section 3.

    Example:
        >>> embedding = hvd.parallel.VocabularyParallelEmbedding(50304, 768)
        >>> logits = embedding(blocks(embedding(ids)), reverse=True)
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        *args: Any,
        sequence_parallel: bool = False,
        mesh: Mesh | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(input_dim, output_dim, *args, mesh=mesh, **kwargs)
        self.sequence_parallel = sequence_parallel

    def weight_layout(self, name: str, mesh: Mesh) -> Layout:
        """Rows of the embeddings; columns of weights that are only for the reverse."""
        return Layout(mesh, {"tensor": {"embeddings": 0, "reverse_embeddings": 1}[name]})

    def build(self, input_shape: Any = None) -> None:
        """Make this rank's rows."""
        if self.built:
            return
        mesh = self.settle_mesh()
        if mesh is not None:
            require_divisible(f"the vocabulary of {self.label}", self.input_dim, mesh)
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, reverse: bool = False) -> tf.Tensor:
        """Vectors of ids; reverse: this rank's logits of vectors."""
        mesh = self.mesh
        if mesh is None:
            return super().call(inputs, reverse=reverse)
        if reverse:
            enter = gather_sequence if self.sequence_parallel else copy_to_group
            return super().call(enter(inputs, mesh), reverse=True)
        vectors = self._looked_up(inputs, mesh)
        leave = reduce_scatter_sequence if self.sequence_parallel else reduce_over_group
        outputs = leave(vectors, mesh)
        if self.mask_zero:
            set_keras_mask(outputs, keras.ops.not_equal(inputs, 0))
        return outputs

    def _looked_up(self, ids: tf.Tensor, mesh: Mesh) -> tf.Tensor:
        """The vectors of this rank's ids, and zeros for those of others."""
        if ids.dtype not in (tf.int32, tf.int64):
            ids = tf.cast(ids, tf.int32)
        rows, own = own_rows(ids, self.input_dim // mesh.tensor, mesh)
        vectors = tf.gather(tf.convert_to_tensor(self.embeddings), rows)
        vectors = tf.where(own[..., tf.newaxis], vectors, tf.zeros_like(vectors))
        return tf.cast(vectors, self.compute_dtype)

    def compute_output_shape(
        self, input_shape: Any, reverse: bool = False
    ) -> tuple[int | None, ...]:
        """The shape of what this rank gives."""
        shape = list(super().compute_output_shape(input_shape, reverse=reverse))
        mesh = self.mesh
        if mesh is not None and reverse:
            shape[-1] //= mesh.tensor
        if mesh is not None and self.sequence_parallel:
            length = shape[SEQUENCE]
            if not reverse:
                shape[SEQUENCE] = sequence_shard_size(length, self.label, mesh)
            elif length is not None:
                shape[SEQUENCE] = length * mesh.tensor
        return tuple(shape)

    def compute_output_spec(self, inputs: Any, reverse: bool = False) -> keras.KerasTensor:
        """The shape and type of what this rank gives."""
        shape = self.compute_output_shape(inputs.shape, reverse=reverse)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """The layer's arguments, without the mesh."""
        return {**super().get_config(), "sequence_parallel": self.sequence_parallel}
