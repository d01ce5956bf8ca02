"""What a rank has made besides, uses, or knows before it runs changes no name and no number."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from checks.collectives.reference import all_ranks, assert_equal, of_all_ranks, of_rank
from checks.marks import long

import hvdkit as hvd

ROWS = 4 * 3  # of 3 and of 4 ranks


def _of(rank: int) -> tf.Tensor:
    return tf.constant(of_rank(rank, rows=ROWS), tf.float32)


def _collectives() -> dict[str, Callable[[tf.Tensor], tf.Tensor]]:
    return {
        "allreduce": hvd.allreduce,
        "grouped_allreduce": lambda v: tf.add_n(hvd.grouped_allreduce([v, v])),
        "bfloat16": lambda v: hvd.allreduce(v, compression=hvd.Compression.bf16),
        "sparse": lambda v: hvd.allreduce(tf.IndexedSlices(v, tf.range(ROWS), [ROWS, 2])).values,
        "allgather": hvd.allgather,
        "grouped_allgather": lambda v: tf.add_n(hvd.grouped_allgather([v, v])),
        "bits": lambda v: tf.cast(hvd.allgather(tf.cast(v, tf.bfloat16)), v.dtype),
        "broadcast": lambda v: hvd.broadcast(v, hvd.size() - 1),
        "alltoall": hvd.alltoall,
        "splits": lambda v: hvd.alltoall(v, [ROWS // hvd.size()] * hvd.size())[0],
        "reducescatter": hvd.reducescatter,
        "grouped_reducescatter": lambda v: tf.add_n(hvd.grouped_reducescatter([v, v])),
    }


def _with_gradient(
    collective: Callable[[tf.Tensor], tf.Tensor], value: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    with tf.GradientTape() as tape:
        tape.watch(value)
        result = collective(value)
        loss = tf.reduce_sum(result * result)
    return result, tape.gradient(loss, value)


class Scoped(keras.layers.Layer):
    """Calls a function, in the name scope of a layer whose number differs by rank."""

    def __init__(self, function: Callable[..., tf.Tensor]) -> None:
        super().__init__(name=f"scoped_{hvd.rank()}")
        self.function = function

    def call(self, value: tf.Tensor) -> tf.Tensor:
        return self.function(value)


@long
def check_collectives_inside_layers_that_are_numbered_differently() -> None:
    """Each collective in one of the places, in turn."""
    places = itertools.cycle((1, 2, 3, 0))
    _require_right_inside_layers(lambda layers: [list(layers)[next(places)]])


@long
def check_collectives_in_every_place_of_layers_that_are_numbered_differently() -> None:
    _require_right_inside_layers(list)


def _require_right_inside_layers(places: Callable[[dict[str, Scoped]], list[str]]) -> None:
    if hvd.rank() == 0:
        for _ in range(2):
            keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).compile("adam", "mse")
        tf.function(lambda v: v + 1)(1)
    value = _of(hvd.rank())
    for name, collective in _collectives().items():
        expected = _with_gradient(collective, value)
        layers = {
            "in a layer": Scoped(collective),
            "in a function": Scoped(tf.function(collective, autograph=False)),
            "in a condition": Scoped(
                lambda v, collective=collective: tf.cond(
                    tf.reduce_sum(v) > -1e9, lambda: collective(v), lambda: 2 * collective(v)
                )
            ),
            "in a loop": Scoped(
                lambda v, collective=collective: tf.while_loop(
                    lambda i, _: i < 1,
                    lambda i, old: (i + 1, tf.ensure_shape(collective(v), old.shape)),
                    (0, tf.zeros_like(collective(v))),
                )[1]
            ),
        }
        for where in places(layers):

            @tf.function(autograph=False)
            def graph(v: tf.Tensor, layer: Scoped = layers[where]) -> tuple[tf.Tensor, tf.Tensor]:
                if hvd.rank() == 0:
                    v = tf.function(tf.identity)(v)
                return _with_gradient(layer, v)

            for result, other in zip(graph(value), expected, strict=True):
                try:
                    assert_equal(result, other.numpy(), rtol=1e-5)
                except AssertionError as error:
                    raise AssertionError(f"{name} {where}: {error}") from error


@long
def check_results_that_one_rank_does_not_use() -> None:
    integers = tf.Variable(tf.range(ROWS, dtype=tf.int64) + hvd.rank())
    for name, collective in _collectives().items():

        @tf.function(autograph=False)
        def graph(v: tf.Tensor, run: Callable = collective) -> tf.Tensor:
            result = run(v)
            return v if hvd.rank() == 0 else result

        graph(_of(hvd.rank()))
        assert hvd.allreduce(1.0, op=hvd.Sum) == hvd.size(), name

    @tf.function(autograph=False)
    def assigned() -> None:
        result = hvd.broadcast(integers, 0)
        if hvd.rank() != 0:
            integers.assign(result)

    for _ in range(2):
        assigned()
    assert_equal(integers, np.arange(ROWS))


@long
def check_constants_and_equal_tensors_of_one_rank() -> None:
    """TensorFlow computes what is constant once, and what is equal only once."""
    fixed = tf.constant(_of(hvd.rank()).numpy())
    for collective in _collectives().values():

        @tf.function(autograph=False)
        def graph(v: tf.Tensor, run: Callable = collective) -> tuple[tf.Tensor, tf.Tensor]:
            if hvd.rank() == 0:
                v = tf.constant(of_rank(0, rows=ROWS))  # a constant of the graph
            return run(v), run(v if hvd.rank() == 0 else v + 0.0 * tf.reduce_sum(v))

        expected = collective(fixed)
        for _ in range(2):
            for result in graph(fixed):
                assert_equal(result, expected.numpy(), rtol=1e-6)


def check_functions_that_call_each_other_do_not_mix_names() -> None:
    """A function of its own in a graph, called twice, and the graph's own: all are `allreduce`."""
    rank, ranks = hvd.rank(), all_ranks()

    @tf.function(autograph=False)
    def inner(value: tf.Tensor) -> tf.Tensor:
        return hvd.allreduce(value, op=hvd.Sum)

    @tf.function(autograph=False)
    def outer(value: tf.Tensor) -> list[tf.Tensor]:
        own = hvd.allreduce(value, op=hvd.Sum)
        return [own, inner(10 * value), inner(100 * value), hvd.allreduce(1000 * value, op=hvd.Sum)]

    if rank == 0:
        inner.get_concrete_function(tf.TensorSpec([], tf.float32))  # traced before, alone
    for turn in range(10):
        total = float(sum(r + turn for r in ranks))
        results = outer(tf.constant(float(rank + turn)))
        assert_equal(tf.stack(results), np.array([1, 10, 100, 1000]) * total)


def check_sum_of_all_rows() -> None:
    """The reference of this module: what is compared above is not what a rank has already."""
    value = _of(hvd.rank())
    mean = of_all_ranks(rows=ROWS).mean(0)
    assert_equal(hvd.allreduce(value), mean, rtol=1e-6)
    # Of an odd number of ranks, the one in the middle has the mean.
    assert not np.allclose(value, mean) or hvd.rank() == (hvd.size() - 1) / 2
