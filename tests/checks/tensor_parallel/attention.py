"""Attention whose heads are divided, against Keras's."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from checks.marks import long

from hvdkit.parallel import GatherSequence, HeadParallelAttention, ScatterSequence
from hvdkit.parallel.tensor import count_traffic

from . import meshes
from .models import block
from .twins import Result, compare, other_weights, run, same_weights, twins

HEADS, SIZE = 4, 3


def _tensor(mesh, seed: int, length: int = 8) -> np.ndarray:
    rng = np.random.default_rng(10 * seed + mesh.data_index)
    return rng.normal(size=(2, length, 6)).astype("float32")


def _attention(divided: bool, **options: Any) -> Any:
    kind = HeadParallelAttention if divided else keras.layers.MultiHeadAttention
    if not divided:
        options.pop("sequence_parallel", None)
    return kind(HEADS, SIZE, name="attention", **options)


def _built(divided: bool, length: int = 8, **options: Any) -> Any:
    layer = _attention(divided, **options)
    layer.build((None, length, 6), (None, length, 6))
    return layer


def _both(mesh, call, inputs, **options: Any) -> tuple[Result, Result]:
    divided, plain = twins(lambda which: _built(which, **options))
    same_weights(divided, plain, rtol=0, atol=0)
    other_weights(divided, plain)
    upstream = _tensor(mesh, 9)
    return run(divided, call, inputs, upstream), run(plain, call, inputs, upstream)


@long
def check_causal_self_attention() -> None:
    for mesh in meshes.each():
        call = lambda layer, x: layer(x, x, use_causal_mask=True)  # noqa: E731
        mine, expected = _both(mesh, call, [_tensor(mesh, 1)], value_dim=5, use_gate=True)
        # The keys' biases shift all scores of a row alike: their gradient is zero.
        for result in (mine, expected):
            zero = [i for i, g in enumerate(result.weights) if np.abs(g).max() < 1e-3]
            assert len(zero) == 1
            del result.weights[zero[0]]
        compare(mine, expected)


@long
def check_cross_attention_with_a_mask() -> None:
    for mesh in meshes.each():
        mask = np.random.default_rng(4).random((2, 8, 8)) < 0.7
        call = lambda layer, q, v, k, m=mask: layer(q, v, k, attention_mask=m)  # noqa: E731
        inputs = [_tensor(mesh, i) for i in (1, 2, 3)]
        compare(*_both(mesh, call, inputs, use_bias=False, output_shape=6))


@long
def check_dropout_of_heads() -> None:
    for mesh in meshes.each():
        call = lambda layer, x: layer(x, x, training=True)  # noqa: E731
        mine, expected = _both(mesh, call, [_tensor(mesh, 1)], dropout=0.4, use_bias=False)
        compare(mine, expected)


@long
def check_scores() -> None:
    for mesh in meshes.each():
        divided, plain = twins(_built)
        x = _tensor(mesh, 1)
        _, scores = divided(x, x, return_attention_scores=True)
        meshes.close(scores, plain(x, x, return_attention_scores=True)[1])


@long
def check_attention_on_parts_of_the_sequence() -> None:
    def make(divided: bool) -> keras.Model:
        x = inputs = keras.Input((8, 6))
        x = keras.layers.Masking()(x)
        x = ScatterSequence()(x) if divided else x
        x = _attention(divided, sequence_parallel=True, use_bias=False)(x, x, use_causal_mask=True)
        return keras.Model(inputs, GatherSequence()(x) if divided else x)

    for mesh in meshes.each():
        divided, plain = twins(make)
        other_weights(divided, plain)
        x = _tensor(mesh, 1)
        x[:, 6:] = 0  # masked
        upstream = _tensor(mesh, 9)
        results = [run(m, lambda model, x: model(x), [x], upstream) for m in (divided, plain)]
        compare(*results)


@long
def check_traffic_of_a_block() -> None:
    """Two collectives each way without sequence parallelism, four with it, and as many bytes."""
    for mesh in meshes.each():
        totals = []
        for sequence_parallel in (False, True):
            x = inputs = keras.Input((8, 12))
            x = ScatterSequence()(x) if sequence_parallel else x
            outputs = block(x, True, sequence_parallel)
            model = keras.Model(inputs, GatherSequence()(outputs) if sequence_parallel else outputs)
            forward, backward = _traffic_of(model, np.ones((2, 8, 12), "float32"))
            size = 2 * 8 * 12 * 4
            sent = size * (mesh.tensor - 1) // mesh.tensor
            if sequence_parallel:
                # And one gather for the border of the region, at its end and backward at its start.
                assert forward.calls == {"all-gather": 3, "reduce-scatter": 2}, forward.calls
                assert backward.calls == {"all-gather": 3, "reduce-scatter": 2}, backward.calls
                totals.append(forward.total_bytes + backward.total_bytes - 2 * sent)
            else:
                assert forward.calls == backward.calls == {"all-reduce": 2}, forward.calls
                totals.append(forward.total_bytes + backward.total_bytes)
            assert totals[-1] == 8 * sent
        assert totals[0] == totals[1]


def _traffic_of(model: keras.Model, x: np.ndarray) -> tuple[Any, Any]:
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        with count_traffic() as forward:
            y = model(x)
    with count_traffic() as backward:
        tape.gradient(y, [x, *(v.value for v in model.trainable_weights)])
    return forward, backward


def check_heads_that_do_not_divide() -> None:
    for mesh in meshes.each():
        layer = HeadParallelAttention(3 * mesh.tensor + 1, 4, name="odd")
        with pytest.raises(ValueError, match=r"num_heads of the layer 'odd' .* degrees that fit"):
            layer.build((None, 8, 6), (None, 8, 6))


@long
def check_configuration_of_attention() -> None:
    for _ in meshes.each():
        layer = HeadParallelAttention(HEADS, SIZE, sequence_parallel=True, dropout=0.3)
        again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
        assert (again.num_heads, again.sequence_parallel, again.dropout) == (HEADS, True, 0.3)
