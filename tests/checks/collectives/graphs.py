"""Collectives in TensorFlow graphs, and their gradients."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from checks.collectives.reference import all_ranks, assert_equal, of_all_ranks, of_rank, own_slice

import hvdkit as hvd


def check_collectives_in_a_graph() -> None:
    size, rank = hvd.size(), hvd.rank()
    root = size - 1

    @tf.function
    def everything(value: tf.Tensor, rows: tf.Tensor) -> dict[str, tf.Tensor]:
        received, splits = hvd.alltoall(rows, [0] * root + [2 * size])
        return {
            "average": hvd.allreduce(value),
            "sum": hvd.allreduce(value, op=hvd.Sum, name="sum"),
            "bfloat16": hvd.allreduce(tf.cast(value, tf.bfloat16), op=hvd.Sum),
            "compressed": hvd.allreduce(value, op=hvd.Sum, compression=hvd.Compression.bf16),
            "group": hvd.grouped_allreduce([value, tf.cast(value, tf.int32)], op=hvd.Sum)[1],
            "allgather": hvd.allgather(value),
            "grouped_allgather": hvd.grouped_allgather([value, tf.cast(value, tf.int64)])[1],
            "broadcast": hvd.broadcast(value, root),
            "alltoall": hvd.alltoall(rows),
            "received": received,
            "splits": splits,
            "reducescatter": hvd.reducescatter(rows, op=hvd.Sum),
            "grouped_reducescatter": hvd.grouped_reducescatter([rows, rows], op=hvd.Sum)[1],
            "number": tf.convert_to_tensor(hvd.allreduce(float(rank))),
        }

    spec = tf.TensorSpec([None, 2], tf.float32)
    for function in (everything, everything.get_concrete_function(spec, spec)):
        for turn in range(2):
            own, rows = of_rank(rank) + turn, of_rank(rank, rows=2 * size) + turn
            everyone, all_rows = of_all_ranks() + turn, of_all_ranks(rows=2 * size) + turn
            result = function(tf.constant(own), tf.constant(rows))
            total, scattered = everyone.sum(0), own_slice(all_rows.sum(0))
            gathered = np.concatenate(everyone)
            for name, expected in {
                "average": everyone.mean(0),
                "sum": total,
                "bfloat16": total,
                "compressed": total,
                "group": total,
                "allgather": gathered,
                "grouped_allgather": gathered,
                "broadcast": everyone[-1],
                "alltoall": np.concatenate(all_rows[:, 2 * rank : 2 * rank + 2]),
                "received": np.concatenate(all_rows) if rank == root else np.zeros((0, 2)),
                "splits": [2 * size if rank == root else 0] * size,
                "reducescatter": scattered,
                "grouped_reducescatter": scattered,
                "number": np.mean(all_ranks()),
            }.items():
                assert_equal(result[name], expected, rtol=1e-6)


def check_gradients() -> None:
    """The gradient of a collective goes back through the other ranks, in every float type."""
    rank, last = hvd.rank(), hvd.size() - 1
    weights = [r + 1.0 for r in all_ranks()]
    mean, total = np.mean(weights), np.sum(weights)
    collectives: dict[str, tuple[Callable[[tf.Tensor], tf.Tensor], float]] = {
        "average": (hvd.allreduce, mean),
        "sum": (lambda v: hvd.allreduce(v, op=hvd.Sum), total),
        "group": (lambda v: hvd.grouped_allreduce([v], op=hvd.Sum)[0], total),
        "compressed": (
            lambda v: hvd.allreduce(v, op=hvd.Sum, compression=hvd.Compression.bf16),
            total,
        ),
        "scaled": (
            lambda v: hvd.allreduce(v, op=hvd.Sum, prescale_factor=2.0, postscale_factor=3.0),
            6 * total,
        ),
        "allgather": (hvd.allgather, mean),
        "broadcast": (lambda v: hvd.broadcast(v, 0), mean * (rank == 0)),
        "alltoall": (lambda v: hvd.alltoall(v, [0] * last + [3])[0], weights[last]),
    }

    def gradients(x: tf.Tensor) -> dict[str, tf.Tensor]:
        found = {}
        for name, (collective, _) in collectives.items():
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(tf.cast(collective(x), tf.float32)) * weights[rank]
            found[name] = tape.gradient(loss, x)
        return found

    for dtype in (tf.float32, tf.float64, tf.bfloat16):
        x = tf.cast(of_rank(rank), dtype)
        for call in (gradients, tf.function(gradients, autograph=False)):
            for name, result in call(x).items():
                assert result is not None, (name, dtype)
                assert result.dtype == dtype, (name, dtype)
                expected = np.full(x.shape, collectives[name][1])
                try:
                    assert_equal(result, expected, rtol=1e-2)
                except AssertionError as error:
                    raise AssertionError(f"{name} of {dtype.name}: {error}") from error
    with tf.GradientTape() as tape:
        variable = keras.Variable(float(rank))
        loss = hvd.allreduce(variable) * (rank + 1)
    assert_equal(tape.gradient(loss, variable.value), mean, rtol=1e-6)
