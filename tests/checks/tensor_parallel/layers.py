"""Dense layers and regions of the sequence, against Keras's."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from checks.marks import long

import hvdkit as hvd
from hvdkit.mesh.mesh import set_mesh
from hvdkit.parallel import (
    ColumnParallelDense,
    GatherSequence,
    RowParallelDense,
    ScatterSequence,
    SequenceParallel,
    ShardedDropout,
)

from . import meshes
from .twins import compare, other_weights, run, same_weights, twins


def _x(mesh, features=6) -> np.ndarray:
    rng = np.random.default_rng(mesh.data_index)
    return rng.normal(size=(3, 8, features)).astype("float32")


def _refuses(text: str, function, *args) -> None:
    with pytest.raises(ValueError, match=text):
        function(*args)


def check_column_and_row() -> None:
    penalty = {"kernel_regularizer": keras.regularizers.L1L2(0.01, 0.1), "bias_regularizer": "l2"}

    def make(divided: bool) -> keras.Model:
        column, row = (
            (ColumnParallelDense, RowParallelDense)
            if divided
            else (keras.layers.Dense, keras.layers.Dense)
        )
        layers = [column(8, activation="tanh", **penalty), row(5, **penalty)]
        return keras.Sequential([keras.Input((8, 6)), *layers])

    for mesh in meshes.each():
        divided, plain = twins(make)
        same_weights(divided, plain, rtol=0, atol=0)
        assert divided.layers[0].kernel.shape == (6, 8 // mesh.tensor)
        assert divided.layers[0].output.shape == (None, 8, 8 // mesh.tensor)
        other_weights(divided, plain)
        meshes.close(sum(divided.losses), sum(plain.losses))
        upstream = _x(mesh, 5)
        results = [
            run(m, lambda model, x: model(x), [_x(mesh)], upstream) for m in (divided, plain)
        ]
        compare(*results)


@long
def check_whole_units_and_inputs() -> None:
    def make(divided: bool) -> keras.Model:
        layers = (
            [
                ColumnParallelDense(8, activation="softmax", gather_output=True),
                RowParallelDense(4, input_is_parallel=False, use_bias=False, activation="relu"),
            ]
            if divided
            else [
                keras.layers.Dense(8, activation="softmax"),
                keras.layers.Dense(4, use_bias=False, activation="relu"),
            ]
        )
        return keras.Sequential([keras.Input((8, 6)), *layers])

    for mesh in meshes.each():
        divided, plain = twins(make)
        other_weights(divided, plain)
        upstream = _x(mesh, 4)
        results = [
            run(m, lambda model, x: model(x), [_x(mesh)], upstream) for m in (divided, plain)
        ]
        compare(*results)


@long
def check_sequence_region() -> None:
    penalty = {"bias_regularizer": "l2", "kernel_regularizer": "l2"}

    def make(divided: bool) -> keras.Model:
        if divided:
            layers = [
                ScatterSequence(),
                SequenceParallel(keras.layers.LayerNormalization(gamma_regularizer="l2")),
                ColumnParallelDense(8, activation="gelu", sequence_parallel=True, **penalty),
                RowParallelDense(6, sequence_parallel=True, **penalty),
                SequenceParallel(keras.layers.Dense(6)),
                GatherSequence(),
            ]
        else:
            layers = [
                keras.layers.LayerNormalization(gamma_regularizer="l2"),
                keras.layers.Dense(8, activation="gelu", **penalty),
                keras.layers.Dense(6, **penalty),
                keras.layers.Dense(6),
            ]
        return keras.Sequential([keras.Input((8, 6)), *layers])

    for mesh in meshes.each():
        divided, plain = twins(make)
        same_weights(divided, plain, rtol=0, atol=0)
        assert divided.layers[1].output.shape == (None, 8 // mesh.tensor, 6)
        other_weights(divided, plain)
        meshes.close(sum(divided.losses), sum(plain.losses))
        upstream = _x(mesh)
        results = [
            run(m, lambda model, x: model(x), [_x(mesh)], upstream) for m in (divided, plain)
        ]
        compare(*results)


def check_part_dropout() -> None:
    for mesh in meshes.each():
        for axis in (1, -1):
            for noise_shape in (None, (None, 1, None)):

                def make(divided: bool, axis: int = axis, noise_shape=noise_shape):
                    if divided:
                        return ShardedDropout(0.4, noise_shape=noise_shape, axis=axis)
                    return keras.layers.Dropout(0.4, noise_shape=noise_shape)

                part, whole = twins(make)
                x = _x(mesh, 8)
                for _ in range(2):
                    kept = whole(x, training=True)
                    mine = part(meshes.part(x, mesh, axis), training=True)
                    np.testing.assert_array_equal(mine, meshes.part(np.asarray(kept), mesh, axis))
                    assert 0 < np.mean(np.asarray(kept) == 0) < 1


def check_masks_of_a_group() -> None:
    """After `hvd.set_random_seed` masks are the same in a group, and other ones in each replica."""
    for mesh in meshes.each():
        own = hvd.set_random_seed(5)
        mask = keras.layers.Dropout(0.5)(np.ones((4, 16), "float32"), training=True)
        everyone = hvd.allgather_object((mesh.data_index, own, np.asarray(mask).tolist()))
        seen = {replica: (number, values) for replica, number, values in everyone}
        assert all(seen[replica] == (number, values) for replica, number, values in everyone)
        assert len({str(one) for one in seen.values()}) == mesh.data
        keras.utils.set_random_seed(5)


def check_without_a_mesh() -> None:
    set_mesh(None)
    x = np.ones((2, 8, 6), "float32")
    layers = [
        ScatterSequence(),
        SequenceParallel(keras.layers.LayerNormalization()),
        ColumnParallelDense(7, sequence_parallel=True),
        RowParallelDense(5, sequence_parallel=True),
        ShardedDropout(0.5),
        GatherSequence(),
    ]
    assert keras.Sequential([keras.Input((8, 6)), *layers])(x).shape == (2, 8, 5)


@long
def check_configurations() -> None:
    for _ in meshes.each():
        layer = ColumnParallelDense(8, gather_output=True, sequence_parallel=True, name="wide")
        again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
        assert (again.gather_output, again.sequence_parallel, again.name) == (True, True, "wide")
        norm = SequenceParallel(keras.layers.LayerNormalization(epsilon=0.5))
        again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(norm))
        assert again.layer.epsilon == 0.5


def check_what_does_not_divide() -> None:
    for mesh in meshes.each():
        odd = 6 * mesh.tensor + 1
        _refuses("Tensor degrees that fit: 1", ColumnParallelDense(odd).build, (None, 4))
        _refuses("'wide'", ColumnParallelDense(odd, name="wide").build, (None, 4))
        row = RowParallelDense(4, input_is_parallel=False)
        _refuses("number of input features", row.build, (None, odd))
        _refuses("sequence", RowParallelDense(4, sequence_parallel=True), keras.Input((odd, 4)))
        _refuses("sequence", ScatterSequence(), keras.Input((odd, 4)))
        softmax = ColumnParallelDense(2 * mesh.tensor, activation="softmax")
        _refuses("gather_output=True", softmax.build, (None, 4))
        lora = ColumnParallelDense(2 * mesh.tensor, lora_rank=2)
        _refuses("lora_rank=2", lora.build, (None, 4))
        orthogonal = keras.regularizers.OrthogonalRegularizer()
        whole = ColumnParallelDense(2 * mesh.tensor, kernel_regularizer=orthogonal)
        _refuses("OrthogonalRegularizer", whole.build, (None, 4))
        drops = SequenceParallel(keras.layers.Dropout(0.5))
        _refuses("ShardedDropout", drops.build, (None, 4, 4))
