"""Kinds of values: tensors, variables, arrays and numbers, and what comes back for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from checks.collectives.reference import all_ranks, assert_equal, of_all_ranks, of_rank, own_slice

import hvdkit as hvd

# Those that take one value.
COLLECTIVES: tuple[Callable[[Any], Any], ...] = (
    hvd.allreduce,
    hvd.allgather,
    hvd.alltoall,
    hvd.reducescatter,
    lambda value: hvd.broadcast(value, 0),
)


def check_tensors_and_variables_give_tensors() -> None:
    own, everyone = of_rank(hvd.rank()), of_all_ranks()
    for value in (tf.constant(own), tf.Variable(own), keras.Variable(own)):
        results = {
            "allreduce": (hvd.allreduce(value), everyone.mean(0)),
            "allgather": (hvd.allgather(value), np.concatenate(everyone)),
            "broadcast": (hvd.broadcast(value, hvd.size() - 1), everyone[-1]),
            "grouped_allreduce": (hvd.grouped_allreduce([value])[0], everyone.mean(0)),
            "grouped_allgather": (hvd.grouped_allgather([value])[0], np.concatenate(everyone)),
        }
        rows = of_rank(hvd.rank(), rows=hvd.size())
        many = value if len(rows) == 3 else type(value)(rows) if _is_variable(value) else rows
        many = many if _is_variable(many) else tf.constant(rows)
        whole = of_all_ranks(rows=hvd.size())
        mean = whole.mean(0)[hvd.rank() : hvd.rank() + 1]
        results["alltoall"] = (hvd.alltoall(many), whole[:, hvd.rank()])
        results["reducescatter"] = (hvd.reducescatter(many), mean)
        results["grouped_reducescatter"] = (hvd.grouped_reducescatter([many])[0], mean)
        for name, (result, expected) in results.items():
            assert isinstance(result, tf.Tensor), (name, type(result))
            assert result.dtype == tf.float32, name
            assert_equal(result, expected, rtol=1e-6)
        np.testing.assert_array_equal(np.asarray(value), own)  # the input stays


def _is_variable(value: Any) -> bool:
    return isinstance(value, (tf.Variable, keras.Variable))


def check_arrays_give_arrays() -> None:
    own, everyone = of_rank(hvd.rank()), of_all_ranks()
    last = hvd.size() - 1
    for result, expected in (
        (hvd.allreduce(own), everyone.mean(0)),
        (hvd.allreduce(own.tolist()), everyone.mean(0)),
        (hvd.grouped_allreduce([own], op=hvd.Sum)[0], everyone.sum(0)),
        (hvd.allgather(own), np.concatenate(everyone)),
        (hvd.grouped_allgather([own])[0], np.concatenate(everyone)),
        (hvd.broadcast(own, last), everyone[-1]),
        (hvd.reducescatter(own, op=hvd.Sum), own_slice(everyone.sum(0))),
    ):
        assert type(result) is np.ndarray, type(result)
        assert result.dtype == np.float64 if expected is everyone else result.dtype.kind == "f"
        assert_equal(result, expected, rtol=1e-6)
    received, splits = hvd.alltoall(own, [0] * last + [3])
    assert type(received) is np.ndarray
    assert splits.tolist() == [3 if hvd.rank() == last else 0] * hvd.size()


def check_averages_of_integer_arrays_are_floats() -> None:
    own = np.array([hvd.rank(), 1])
    result = hvd.allreduce(own)
    assert result.dtype == np.float64
    assert_equal(result, [np.mean(all_ranks()), 1], rtol=1e-12)
    assert hvd.allreduce(own, op=hvd.Sum).dtype == own.dtype
    scattered = hvd.reducescatter(np.full(hvd.size(), hvd.rank()))
    assert scattered.dtype == np.float64
    assert_equal(scattered, [np.mean(all_ranks())], rtol=1e-12)


def check_numbers_give_numbers() -> None:
    rank, size, ranks = hvd.rank(), hvd.size(), list(all_ranks())
    everyone_true, someone_true = all(r > 0 for r in ranks), any(r > 0 for r in ranks)
    for value, options, expected in (
        (rank + 0.5, {}, np.mean(ranks) + 0.5),
        (rank + 0.5, {"op": hvd.Sum}, sum(ranks) + size / 2),
        (rank, {}, float(np.mean(ranks))),
        (rank, {"op": hvd.Sum}, sum(ranks)),
        (rank, {"op": hvd.Max}, size - 1),
        (rank - 1, {"op": hvd.Min}, -1),
        (rank + 1, {"op": hvd.Product}, int(np.prod([r + 1 for r in ranks]))),
        (2**40 + rank, {"op": hvd.Max}, 2**40 + size - 1),
        (rank > 0, {}, np.mean([float(r > 0) for r in ranks])),
        (rank > 0, {"op": hvd.Sum}, size - 1),
        (rank > 0, {"op": hvd.Max}, someone_true),
        (rank > 0, {"op": hvd.Min}, everyone_true),
    ):
        result = hvd.allreduce(value, **options)
        python = type(expected) if not isinstance(expected, np.generic) else float
        assert type(result) is python, (value, options, type(result))
        assert result == pytest.approx(expected), (value, options)
    for root in ranks:
        for value in (rank, rank + 0.25, rank % 2 == 0):
            expected = {int: root, float: root + 0.25, bool: root % 2 == 0}[type(value)]
            result = hvd.broadcast(value, root)
            assert type(result) is type(value)
            assert result == expected
    assert hvd.allgather(rank * 2).tolist() == [2 * r for r in ranks]
    assert hvd.allgather(rank + 0.5).tolist() == [r + 0.5 for r in ranks]
    assert hvd.allgather(rank > 0).tolist() == [r > 0 for r in ranks]


def check_numpy_numbers() -> None:
    rank, ranks = hvd.rank(), list(all_ranks())
    for kind in (np.float32, np.float64, np.float16):
        result = hvd.allreduce(kind(rank), op=hvd.Sum)
        assert isinstance(result, (float, np.floating)), type(result)
        assert result == sum(ranks)
    for kind in (np.int32, np.int64, np.uint8):
        assert hvd.allreduce(kind(rank), op=hvd.Sum) == sum(ranks)
        assert hvd.allreduce(kind(rank)) == pytest.approx(np.mean(ranks))
    assert hvd.allreduce(np.bool_(rank > 0), op=hvd.Sum) == len(ranks) - 1
    assert hvd.allgather(np.float64(rank)).tolist() == ranks


def check_values_that_are_no_numbers_are_refused() -> None:
    for value in ("text", ["a", "b"], {"a": 1}, None, object(), np.array([{}], object)):
        for collective in COLLECTIVES:
            with pytest.raises(TypeError, match=r"hvd\.broadcast_object"):
                collective(value)
    for collective in (*COLLECTIVES, lambda value: hvd.grouped_allgather([value])):
        with pytest.raises(TypeError, match="string"):
            collective(tf.constant(["text"] * hvd.size()))
