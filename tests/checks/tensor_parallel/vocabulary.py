"""Embedding, logits and cross entropy that are divided along the vocabulary."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from checks.marks import long

from hvdkit.parallel import VocabularyParallelCrossEntropy, VocabularyParallelEmbedding

from . import meshes
from .twins import compare, run, same_weights, twins

WORDS, SIZE = 12, 5


def _ids(mesh) -> np.ndarray:
    return np.random.default_rng(mesh.data_index).integers(0, WORDS, (3, 8)).astype("int32")


def _embedding(divided: bool, **options):
    kind = VocabularyParallelEmbedding if divided else keras.layers.ReversibleEmbedding
    layer = kind(WORDS, SIZE, embeddings_regularizer="l2", **options)
    layer.build((None, 8))
    return layer


@long
def check_embedding() -> None:
    for mesh in meshes.each():
        divided, plain = twins(_embedding)
        same_weights(divided, plain, rtol=0, atol=0)
        assert divided.embeddings.shape == (WORDS // mesh.tensor, SIZE)
        ids = _ids(mesh)
        upstream = np.random.default_rng(1).normal(size=(3, 8, SIZE)).astype("float32")
        call = lambda layer, i=ids: layer(i)  # noqa: E731
        results = [run(e, call, [], upstream) for e in (divided, plain)]
        compare(*results)


@long
def check_masked_embedding() -> None:
    for mesh in meshes.each():
        layer = VocabularyParallelEmbedding(WORDS, SIZE, mask_zero=True)
        ids = _ids(mesh)
        np.testing.assert_array_equal(layer(ids)._keras_mask, ids != 0)


def check_cross_entropy() -> None:
    for mesh in meshes.each():
        rng = np.random.default_rng(mesh.data_index)
        logits = rng.normal(size=(3, 8, WORDS)).astype("float32") * 20
        weights = rng.random((3, 8)).astype("float32")
        labels = _ids(mesh)
        for ignored in (None, 2):
            for weight in (None, weights):
                mine = VocabularyParallelCrossEntropy(ignore_class=ignored)
                plain = keras.losses.SparseCategoricalCrossentropy(True, ignored)
                part = tf.constant(meshes.part(logits, mesh, -1))
                whole = tf.constant(logits)
                with tf.GradientTape(persistent=True) as tape:
                    tape.watch([part, whole])
                    loss = mine(labels, part, sample_weight=weight)
                    expected = plain(labels, whole, sample_weight=weight)
                meshes.close(loss, expected)
                gradient = np.asarray(tape.gradient(expected, whole))
                meshes.close(tape.gradient(loss, part), meshes.part(gradient, mesh, -1), atol=1e-7)
        each = VocabularyParallelCrossEntropy(reduction=None)(labels[..., None], part)
        assert each.shape == (3, 8)


def check_a_vocabulary_that_does_not_divide() -> None:
    for mesh in meshes.each():
        layer = VocabularyParallelEmbedding(50 * mesh.tensor + 1, SIZE, name="words")
        multiple = 51 * mesh.tensor
        with pytest.raises(ValueError, match=f"vocabulary of the layer 'words' .* {multiple}"):
            layer.build()
