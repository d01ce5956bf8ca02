"""The conjugate pairs: forward and backward, eagerly and in graphs."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import tensorflow as tf
from checks.marks import long

from hvdkit.mesh.mesh import Mesh
from hvdkit.parallel.tensor import conjugate

from . import meshes

TYPES = (tf.float32, tf.float16, tf.bfloat16)


def _whole(mesh: Mesh, seed: int) -> np.ndarray:
    """Small integers, which every type adds up exactly; other ones in each replica."""
    rng = np.random.default_rng(seed + 10 * mesh.data_index)
    return rng.integers(-8, 8, (3, 4, 8)).astype("float32")


def _of_ranks(mesh: Mesh, seed: int) -> list[np.ndarray]:
    return [_whole(mesh, seed + 100 * (r + 1)) for r in range(mesh.tensor)]


def _run(function, x, upstream, in_graph: bool, dtype):
    """What a pair gives for x, and the gradient that it gives for `upstream`."""

    def both(x, upstream):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return y, tape.gradient(y, x, upstream)

    unknown = tf.TensorSpec([None, None, None], dtype)
    run = tf.function(both, input_signature=[unknown, unknown]) if in_graph else both
    y, gradient = run(tf.constant(x, dtype), tf.constant(upstream, dtype))
    assert y.dtype == gradient.dtype == dtype
    return y.numpy().astype("float32"), gradient.numpy().astype("float32")


def _check(function, x, y, upstream, gradient) -> None:
    for dtype, in_graph in ((tf.float32, True), *((dtype, False) for dtype in TYPES)):
        found = _run(function, x, upstream, in_graph, dtype)
        np.testing.assert_array_equal(found[0], y)
        np.testing.assert_array_equal(found[1], gradient)


@long
def check_copy_and_reduce() -> None:
    for mesh in meshes.each():
        whole, own = _whole(mesh, 1), _of_ranks(mesh, 2)
        mine, total = own[mesh.tensor_index], sum(own)
        _check(partial(conjugate.copy_to_group, mesh=mesh), whole, whole, mine, total)
        _check(partial(conjugate.reduce_over_group, mesh=mesh), mine, total, whole, whole)


@long
def check_parts() -> None:
    for mesh in meshes.each():
        for axis in (1, -1):
            take = partial(conjugate.take_shard, mesh=mesh, axis=axis)
            gather = partial(conjugate.gather_shards, mesh=mesh, axis=axis)
            whole, upstream = _whole(mesh, 1), _whole(mesh, 2)
            part, of_part = (meshes.part(x, mesh, axis) for x in (whole, upstream))
            _check(take, whole, part, of_part, upstream)
            _check(gather, part, whole, upstream, of_part)


@long
def check_sequence() -> None:
    for mesh in meshes.each():
        whole, own = _whole(mesh, 1), _of_ranks(mesh, 2)
        part = meshes.part(whole, mesh, 1)
        mine, total = own[mesh.tensor_index], meshes.part(sum(own), mesh, 1)
        _check(partial(conjugate.gather_sequence, mesh=mesh), part, whole, mine, total)
        _check(partial(conjugate.reduce_scatter_sequence, mesh=mesh), mine, total, part, whole)


@long
def check_length_of_an_unknown_sequence() -> None:
    for mesh in meshes.each():
        short = np.zeros((3, mesh.tensor + 1, 8), "float32")
        take = partial(conjugate.take_shard, mesh=mesh, axis=1)
        with pytest.raises(tf.errors.InvalidArgumentError, match="length of the sequence"):
            _run(take, short, short, True, tf.float32)
