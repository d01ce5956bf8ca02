"""Cross entropy of logits that are sharded along the vocabulary; they are never gathered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from hvdkit.engine import Max
from hvdkit.keras_internals import set_keras_mask
from hvdkit.mesh.mesh import Mesh
from hvdkit.parallel.tensor.collectives import all_reduce
from hvdkit.parallel.tensor.degrees import sharding_mesh
from hvdkit.parallel.tensor.vocabulary import own_rows


@keras.saving.register_keras_serializable(package="hvdkit")
class VocabularyParallelCrossEntropy(keras.losses.Loss):
    """`keras.losses.SparseCategoricalCrossentropy(from_logits=True)` of sharded logits.

    The ranks of a tensor group exchange three numbers for each token, in two all-reduces: the
    largest logit, then the sum of the exponentials and the label's logit. Backward nothing.

    `y_true`: ids of the unsharded vocabulary, [batch, sequence], the same on all ranks.
    `y_pred`: this rank's logits, [batch, sequence, vocabulary / tensor].

    Args:
        ignore_class: a label whose tokens do not count; None for none.
        reduction: as in Keras.
        name: the loss's name.
        dtype: the type to compute in; None for Keras's float type.
        mesh: whose tensor group the logits are sharded over; None for the current mesh when it is
            called. Without one the logits are unsharded.

    Source: Megatron-LM, arXiv 1909.08053, section 3.

    Example:
        >>> model.compile(optimizer, hvd.parallel.VocabularyParallelCrossEntropy())
    """

    def __init__(
        self,
        ignore_class: int | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str = "vocabulary_parallel_cross_entropy",
        dtype: Any = None,
        mesh: Mesh | None = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.ignore_class = ignore_class
        self._given_mesh = mesh

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """The loss of each token, [batch, sequence]."""
        mesh = sharding_mesh(self._given_mesh)
        if mesh is None:
            return keras.losses.sparse_categorical_crossentropy(
                y_true, y_pred, from_logits=True, ignore_class=self.ignore_class
            )
        if y_true.shape.rank == y_pred.shape.rank:
            y_true = tf.squeeze(y_true, -1)
        labels = tf.cast(y_true, tf.int64)
        if self.ignore_class is None:
            return _cross_entropy(labels, y_pred, mesh)
        counts = labels != self.ignore_class
        losses = _cross_entropy(tf.where(counts, labels, tf.zeros_like(labels)), y_pred, mesh)
        losses = tf.where(counts, losses, tf.zeros_like(losses))
        set_keras_mask(losses, counts)
        return losses

    def get_config(self) -> dict[str, Any]:
        """The loss's arguments, without the mesh."""
        return {**super().get_config(), "ignore_class": self.ignore_class}


def _cross_entropy(labels: tf.Tensor, logits: tf.Tensor, mesh: Mesh) -> tf.Tensor:
    vocabulary = logits.shape[-1]
    rows, own = own_rows(labels, vocabulary, mesh)

    @tf.custom_gradient
    def losses(logits: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        largest = all_reduce(tf.reduce_max(logits, -1), mesh, "cross_entropy_max", Max)
        shifted = logits - largest[..., tf.newaxis]
        exponentials = tf.exp(shifted)
        label = tf.gather(shifted, rows, batch_dims=rows.shape.rank)
        label = tf.where(own, label, tf.zeros_like(label))
        sums = tf.stack([tf.reduce_sum(exponentials, -1), label])
        total, label = tf.unstack(all_reduce(sums, mesh, "cross_entropy_sum"))

        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            probabilities = exponentials / total[..., tf.newaxis]
            hits = tf.one_hot(tf.where(own, rows, -1), vocabulary, dtype=logits.dtype)
            return (probabilities - hits) * upstream[..., tf.newaxis]

        return tf.math.log(total) - label, gradient

    return losses(logits)
