"""Every collective: every kind of value, every type, every option, on every number of ranks.

Each rank gives other data, so a result that is right has come from the other ranks.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import hvdkit as hvd

FLOATS = (tf.float16, tf.bfloat16, tf.float32, tf.float64)
INTEGERS = (
    tf.int8,
    tf.int16,
    tf.int32,
    tf.int64,
    tf.uint8,
    tf.uint16,
    tf.uint32,
    tf.uint64,
)
COMPLEX = (tf.complex64, tf.complex128)


def _ranks() -> range:
    return range(hvd.size())


def _of_rank(rank: int, dtype: tf.DType = tf.float32, rows: int = 3) -> np.ndarray:
    """Rows of two small numbers that are exact in every type and other ones on each rank."""
    values = np.arange(1, 2 * rows + 1).reshape(rows, 2) + 3 * rank
    if dtype == tf.bool:
        return (values + rank) % (rank + 2) == 0
    if dtype.is_complex:
        return (values * (1 + 2j)).astype(dtype.as_numpy_dtype)
    return values.astype(dtype.as_numpy_dtype)


def _all(dtype: tf.DType = tf.float32, rows: int = 3) -> np.ndarray:
    """What all ranks have, stacked, in a type that holds the sum."""
    wide = np.complex128 if dtype.is_complex else np.float64
    return np.stack([_of_rank(r, dtype, rows).astype(wide) for r in _ranks()])


def _equal(actual: Any, expected: Any, **tolerance: float) -> None:
    actual = np.asarray(actual.numpy() if tf.is_tensor(actual) else actual)
    wide = np.complex128 if actual.dtype.kind == "c" else np.float64
    if tolerance:
        np.testing.assert_allclose(actual.astype(wide), expected, **tolerance)
    else:
        np.testing.assert_array_equal(actual.astype(wide), expected)


@contextlib.contextmanager
def _process_sets(*sets: list[int]) -> Iterator[list[hvd.ProcessSet]]:
    """Process sets that all ranks have, until the end of the block."""
    added = [hvd.add_process_set(ranks) for ranks in sets]
    yield added
    hvd.barrier()
    for process_set in added:
        assert hvd.remove_process_set(process_set)


# --- who am I -------------------------------------------------------------------------------


def check_ranks_and_sizes() -> None:
    ranks = [hvd.rank(), hvd.local_rank(), hvd.cross_rank()]
    sizes = [hvd.size(), hvd.local_size(), hvd.cross_size()]
    assert all(type(number) is int for number in ranks + sizes)
    assert hvd.allgather(hvd.rank()).tolist() == list(_ranks())
    assert hvd.allgather(hvd.local_rank()).tolist() == list(_ranks()), "all on one host"
    assert sizes == [hvd.size(), hvd.size(), 1]
    assert hvd.cross_rank() == 0
    assert hvd.is_homogeneous() is True
    launched = os.environ.get("OMPI_COMM_WORLD_SIZE") or os.environ.get("HOROVOD_SIZE")
    assert hvd.size() == int(launched or 1)


def check_what_horovod_was_built_with() -> None:
    over_mpi = "OMPI_COMM_WORLD_SIZE" in os.environ
    assert hvd.mpi_enabled() is over_mpi
    assert hvd.gloo_enabled() is not over_mpi
    assert hvd.mpi_built() is True
    assert hvd.gloo_built() is True
    assert hvd.mpi_threads_supported() is over_mpi
    assert type(hvd.nccl_built()) is int
    for built in (hvd.ddl_built, hvd.ccl_built, hvd.cuda_built, hvd.rocm_built):
        assert type(built()) is bool


def check_rank_operations() -> None:
    def numbers() -> list[tf.Tensor]:
        return [hvd.size_op(), hvd.rank_op(), hvd.local_rank_op(), hvd.size_op(name="named")]

    expected = [hvd.size(), hvd.rank(), hvd.local_rank(), hvd.size()]
    for function in (numbers, tf.function(numbers)):
        result = function()
        assert [int(number) for number in result] == expected
        assert all(number.dtype == tf.int32 and number.shape == [] for number in result)


def check_init_again_does_nothing() -> None:
    before = dict(os.environ), hvd.rank(), hvd.size()
    hvd.init()
    hvd.init(threads=1, cycle_time_ms=50.0, stall_timeout=1.0)
    assert (dict(os.environ), hvd.rank(), hvd.size()) == before
    assert hvd.is_initialized() is True
    _equal(hvd.allreduce(tf.constant(hvd.rank() + 1.0), op=hvd.Sum), sum(r + 1 for r in _ranks()))


# --- kinds of values ------------------------------------------------------------------------


def check_tensors_and_variables_give_tensors() -> None:
    own, everyone = _of_rank(hvd.rank()), _all()
    for value in (tf.constant(own), tf.Variable(own), keras.Variable(own)):
        results = {
            "allreduce": (hvd.allreduce(value), everyone.mean(0)),
            "allgather": (hvd.allgather(value), np.concatenate(everyone)),
            "broadcast": (hvd.broadcast(value, hvd.size() - 1), everyone[-1]),
            "grouped_allreduce": (hvd.grouped_allreduce([value])[0], everyone.mean(0)),
            "grouped_allgather": (hvd.grouped_allgather([value])[0], np.concatenate(everyone)),
        }
        rows = _of_rank(hvd.rank(), rows=hvd.size())
        many = value if len(rows) == 3 else type(value)(rows) if _is_variable(value) else rows
        many = many if _is_variable(many) else tf.constant(rows)
        whole = _all(rows=hvd.size())
        mean = whole.mean(0)[hvd.rank() : hvd.rank() + 1]
        results["alltoall"] = (hvd.alltoall(many), whole[:, hvd.rank()])
        results["reducescatter"] = (hvd.reducescatter(many), mean)
        results["grouped_reducescatter"] = (hvd.grouped_reducescatter([many])[0], mean)
        for name, (result, expected) in results.items():
            assert isinstance(result, tf.Tensor), (name, type(result))
            assert result.dtype == tf.float32, name
            _equal(result, expected, rtol=1e-6)
        np.testing.assert_array_equal(np.asarray(value), own)  # the input stays


def _is_variable(value: Any) -> bool:
    return isinstance(value, (tf.Variable, keras.Variable))


def check_arrays_give_arrays() -> None:
    own, everyone = _of_rank(hvd.rank()), _all()
    last = hvd.size() - 1
    for result, expected in (
        (hvd.allreduce(own), everyone.mean(0)),
        (hvd.allreduce(own.tolist()), everyone.mean(0)),
        (hvd.grouped_allreduce([own], op=hvd.Sum)[0], everyone.sum(0)),
        (hvd.allgather(own), np.concatenate(everyone)),
        (hvd.grouped_allgather([own])[0], np.concatenate(everyone)),
        (hvd.broadcast(own, last), everyone[-1]),
        (hvd.reducescatter(own, op=hvd.Sum), _slice_of_rank(everyone.sum(0))),
    ):
        assert type(result) is np.ndarray, type(result)
        assert result.dtype == np.float64 if expected is everyone else result.dtype.kind == "f"
        _equal(result, expected, rtol=1e-6)
    received, splits = hvd.alltoall(own, [0] * last + [3])
    assert type(received) is np.ndarray
    assert splits.tolist() == [3 if hvd.rank() == last else 0] * hvd.size()


def check_averages_of_integer_arrays_are_floats() -> None:
    own = np.array([hvd.rank(), 1])
    result = hvd.allreduce(own)
    assert result.dtype == np.float64
    _equal(result, [np.mean(_ranks()), 1], rtol=1e-12)
    assert hvd.allreduce(own, op=hvd.Sum).dtype == own.dtype
    scattered = hvd.reducescatter(np.full(hvd.size(), hvd.rank()))
    assert scattered.dtype == np.float64
    _equal(scattered, [np.mean(_ranks())], rtol=1e-12)


def check_numbers_give_numbers() -> None:
    rank, size, ranks = hvd.rank(), hvd.size(), list(_ranks())
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
    rank, ranks = hvd.rank(), list(_ranks())
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
        for collective in (
            hvd.allreduce,
            hvd.allgather,
            hvd.alltoall,
            hvd.reducescatter,
            lambda v: hvd.broadcast(v, 0),
        ):
            with pytest.raises(TypeError, match=r"hvd\.broadcast_object"):
                collective(value)
    for collective in (
        hvd.allreduce,
        hvd.allgather,
        hvd.alltoall,
        hvd.reducescatter,
        lambda v: hvd.broadcast(v, 0),
        lambda v: hvd.grouped_allgather([v]),
    ):
        with pytest.raises(TypeError, match="string"):
            collective(tf.constant(["text"] * hvd.size()))


# --- types ----------------------------------------------------------------------------------


def check_every_type_is_summed() -> None:
    for dtype in FLOATS + INTEGERS:
        own = tf.constant(_of_rank(hvd.rank(), dtype))
        result = hvd.allreduce(own, op=hvd.Sum)
        assert result.dtype == dtype
        _equal(result, _all(dtype).sum(0))
        slice_ = hvd.reducescatter(own, op=hvd.Sum)
        assert slice_.dtype == dtype
        _equal(slice_, _slice_of_rank(_all(dtype).sum(0)))
    result = hvd.allreduce(tf.constant([hvd.rank() == 0, hvd.rank() == -1]), op=hvd.Sum)
    assert result.dtype == tf.bool
    assert result.numpy().tolist() == [True, False]


def check_every_type_is_averaged() -> None:
    for dtype in FLOATS:
        result = hvd.allreduce(tf.constant(_of_rank(hvd.rank(), dtype)))
        assert result.dtype == dtype
        _equal(result, _all(dtype).mean(0), rtol=1e-2 if dtype.size == 2 else 1e-6)
    for dtype in INTEGERS:
        result = hvd.allreduce(tf.constant(_of_rank(hvd.rank(), dtype)))
        assert result.dtype == dtype
        assert np.abs(np.asarray(result, np.float64) - _all(dtype).mean(0)).max() < 1


def check_averages_of_small_integers_do_not_overflow() -> None:
    for dtype, large in ((tf.uint8, 250), (tf.int8, 120), (tf.int16, 32000), (tf.uint16, 65000)):
        mean = np.mean([large - 30 * r for r in _ranks()])
        own = tf.fill([hvd.size()], tf.cast(large - 30 * hvd.rank(), dtype))
        for result in (hvd.allreduce(own), hvd.reducescatter(own)):
            assert result.dtype == dtype
            assert abs(int(result[0]) - mean) <= 1, (dtype, result)


def check_every_type_moves_exactly() -> None:
    for dtype in (tf.bool, *FLOATS, *INTEGERS, *COMPLEX):
        own, everyone = tf.constant(_of_rank(hvd.rank(), dtype)), _all(dtype)
        last = hvd.size() - 1
        gathered = hvd.allgather(own)
        (grouped,) = hvd.grouped_allgather([own])
        sent = hvd.broadcast(own, last)
        received, _ = hvd.alltoall(own, [0] * last + [3])
        for result in (gathered, grouped, sent, received):
            assert result.dtype == dtype
        _equal(gathered, np.concatenate(everyone))
        _equal(grouped, np.concatenate(everyone))
        _equal(sent, everyone[-1])
        expected = np.concatenate(everyone) if hvd.rank() == last else np.zeros((0, 2))
        _equal(received, expected)
        scalar = hvd.broadcast(own[0, 0], last)
        assert scalar.shape == []
        _equal(scalar, everyone[-1][0, 0])


def check_large_values_move_exactly() -> None:
    for dtype in (tf.int64, tf.uint64, tf.uint32, tf.float64):
        large = np.array([dtype.max], dtype.as_numpy_dtype)
        own = tf.constant(large if hvd.rank() == hvd.size() - 1 else large * 0)
        assert hvd.broadcast(own, hvd.size() - 1).numpy() == large
        assert hvd.allgather(own).numpy()[-1] == large
        if dtype != tf.uint64:
            assert hvd.allreduce(own, op=hvd.Max).numpy() == large


# --- operations and factors -----------------------------------------------------------------


def check_operations() -> None:
    for dtype in (tf.float16, tf.float32, tf.float64, tf.int32, tf.int64, tf.uint8, tf.int16):
        own, everyone = tf.constant(_of_rank(hvd.rank(), dtype, rows=1)), _all(dtype, rows=1)
        for op, combine in (
            (hvd.Sum, np.sum),
            (hvd.Min, np.min),
            (hvd.Max, np.max),
            (hvd.Product, np.prod),
        ):
            expected = combine(everyone, 0)
            if expected.max() < min(dtype.max, 2048):
                _equal(hvd.allreduce(own, op=op), expected)
                _equal(hvd.grouped_allreduce([own, own + 0], op=op)[1], expected)
    with pytest.raises(TypeError, match="bfloat16"):
        hvd.allreduce(tf.constant(1.0, tf.bfloat16), op=hvd.Max)


def check_average_argument() -> None:
    value, ranks = float(hvd.rank()), list(_ranks())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert hvd.allreduce(value, average=False) == sum(ranks)
        assert hvd.allreduce(value, average=True) == np.mean(ranks)
        assert hvd.grouped_allreduce([value], average=False) == [sum(ranks)]
    assert len([w for w in caught if w.category is DeprecationWarning]) == 3
    with pytest.raises(ValueError, match="op or average"):
        hvd.allreduce(value, average=True, op=hvd.Sum)


def check_unknown_operation_is_refused() -> None:
    for collective in (hvd.allreduce, hvd.reducescatter):
        with pytest.raises(ValueError, match=r"hvd\.Average"):
            collective(tf.zeros([hvd.size()]), op=77)
    with pytest.raises(ValueError, match=r"hvd\.Average and hvd\.Sum"):
        hvd.reducescatter(tf.zeros([hvd.size()]), op=hvd.Max)


def check_prescale_and_postscale() -> None:
    own, everyone = _of_rank(hvd.rank()), _all()
    for dtype in (tf.float16, tf.bfloat16, tf.float32, tf.float64):
        result = hvd.allreduce(
            tf.cast(own, dtype), op=hvd.Sum, prescale_factor=0.5, postscale_factor=4.0
        )
        assert result.dtype == dtype
        _equal(result, 2 * everyone.sum(0))
    result = hvd.grouped_allreduce([own], prescale_factor=0.25, postscale_factor=8.0)[0]
    _equal(result, 2 * everyone.mean(0), rtol=1e-6)
    slice_ = hvd.reducescatter(own, op=hvd.Sum, prescale_factor=0.5, postscale_factor=4.0)
    _equal(slice_, _slice_of_rank(2 * everyone.sum(0)))
    slice_ = hvd.grouped_reducescatter([own], prescale_factor=0.5, postscale_factor=4.0)[0]
    _equal(slice_, _slice_of_rank(2 * everyone.mean(0)), rtol=1e-6)
    # A value that float16 can't hold before it is scaled down, and after it is scaled up.
    huge = tf.constant([60000.0], tf.float16)
    small = 1.0 / 64 / hvd.size()
    _equal(hvd.allreduce(huge, op=hvd.Sum, prescale_factor=small), [937.5], rtol=2e-3)


def check_compression() -> None:
    # 1 + 2^-10 is exact in float16, 1 + 2^-12 is not; bfloat16 keeps 1 + 2^-7.
    for compression, kept, lost in (
        (hvd.Compression.none, 2.0**-20, None),
        (hvd.Compression.fp16, 2.0**-10, 2.0**-12),
        (hvd.Compression.bf16, 2.0**-7, 2.0**-9),
    ):
        for dtype in (tf.float32, tf.float64):
            for part, arrives in ((kept, True), (lost, False)):
                if part is None:
                    continue
                mine = tf.constant([1 + part] if hvd.rank() == 0 else [0.0], dtype)
                expected = 1 + part if arrives else 1.0
                for result in (
                    hvd.allreduce(mine, op=hvd.Sum, compression=compression),
                    hvd.grouped_allreduce([mine], op=hvd.Sum, compression=compression)[0],
                ):
                    assert result.dtype == dtype
                    _equal(result, [expected])
        whole = tf.constant([2**20 + hvd.rank()])
        _equal(
            hvd.allreduce(whole, op=hvd.Sum, compression=compression),
            [sum(2**20 + r for r in _ranks())],
        )
        slice_ = hvd.reducescatter(
            tf.ones([hvd.size(), 2]) * (hvd.rank() + 1), op=hvd.Sum, compression=compression
        )
        _equal(slice_, [[sum(r + 1 for r in _ranks())] * 2])


def _adasum(vectors: list[np.ndarray]) -> np.ndarray:
    """Adasum of 2^k vectors, by the formula of Maleki et al., https://arxiv.org/abs/2006.02924."""
    if len(vectors) == 1:
        return vectors[0]
    half = len(vectors) // 2
    a, b = _adasum(vectors[:half]), _adasum(vectors[half:])
    dot = a @ b
    return (1 - dot / (2 * a @ a)) * a + (1 - dot / (2 * b @ b)) * b


def check_adasum() -> None:
    vectors = [np.random.default_rng(r).normal(size=20) for r in _ranks()]
    own = vectors[hvd.rank()]
    if hvd.gloo_enabled():
        with pytest.raises(NotImplementedError, match=r"hvd\.Adasum needs MPI"):
            hvd.allreduce(own, op=hvd.Adasum)
        return
    if hvd.size() & (hvd.size() - 1):
        with pytest.raises(NotImplementedError, match=f"power of 2 of ranks, not {hvd.size()}"):
            hvd.allreduce(own, op=hvd.Adasum)
        return
    for dtype, rtol in ((tf.float64, 1e-6), (tf.float32, 1e-4), (tf.float16, 5e-2)):
        result = hvd.allreduce(tf.cast(own, dtype), op=hvd.Adasum)
        assert result.dtype == dtype
        _equal(result, _adasum(vectors), rtol=rtol, atol=rtol)
    with pytest.raises(TypeError, match="Adasum"):
        hvd.allreduce(tf.constant([hvd.rank()]), op=hvd.Adasum)
    with pytest.raises(TypeError, match="Adasum"):
        hvd.allreduce(hvd.rank(), op=hvd.Adasum)


# --- sparse ---------------------------------------------------------------------------------


def _slices(rank: int) -> tf.IndexedSlices:
    """`rank + 1` rows of 5, the last of them twice."""
    indices = [(rank + i) % 5 for i in range(rank + 1)] + [(2 * rank) % 5]
    values = np.arange(len(indices) * 2, dtype=np.float32).reshape(-1, 2) + 1 + 10 * rank
    return tf.IndexedSlices(
        tf.constant(values), tf.constant(indices, tf.int64), tf.constant([5, 2], tf.int64)
    )


def check_indexed_slices() -> None:
    dense = np.sum([tf.convert_to_tensor(_slices(r)).numpy() for r in _ranks()], 0)
    own = _slices(hvd.rank())
    for options, expected in (
        ({"op": hvd.Sum}, dense),
        ({}, dense / hvd.size()),
        ({"op": hvd.Sum, "compression": hvd.Compression.fp16}, dense),
        ({"op": hvd.Sum, "compression": hvd.Compression.bf16}, dense),
    ):
        for collective in (
            hvd.allreduce,
            lambda v, **o: hvd.grouped_allreduce([v], **o)[0],
            tf.function(hvd.allreduce),
        ):
            result = collective(own, **options)
            assert isinstance(result, tf.IndexedSlices)
            assert result.values.dtype == tf.float32
            indices = result.indices.numpy()
            assert len(set(indices)) == len(indices), "duplicates are added up"
            _equal(tf.convert_to_tensor(result), expected, rtol=1e-6)


def check_indexed_slices_refuse_what_they_cannot() -> None:
    own = _slices(hvd.rank())
    with pytest.raises(ValueError, match="averaged and summed"):
        hvd.allreduce(own, op=hvd.Max)
    for collective in (hvd.allreduce, lambda v, **o: hvd.grouped_allreduce([v], **o)):
        with pytest.raises(NotImplementedError, match="prescale or postscale"):
            collective(own, prescale_factor=2.0)
        with pytest.raises(NotImplementedError, match="prescale or postscale"):
            collective(own, postscale_factor=2.0)


# --- several at once ------------------------------------------------------------------------


def check_grouped_allreduce_of_mixed_types() -> None:
    rank, ranks = hvd.rank(), list(_ranks())
    dtypes = (tf.float32, tf.int64, tf.bfloat16, tf.float32, tf.uint8, tf.float16, tf.bool)
    values = [tf.constant(_of_rank(rank, dtype, rows=i + 1)) for i, dtype in enumerate(dtypes)]
    mixed = [
        *values,
        _of_rank(rank, tf.int32),
        rank,
        rank + 0.5,
        _slices(rank),
        keras.Variable([1.0 + rank]),
    ]
    results = hvd.grouped_allreduce(mixed, op=hvd.Sum)
    assert len(results) == len(mixed)
    for i, dtype in enumerate(dtypes):
        assert results[i].dtype == dtype
        expected = _all(dtype, rows=i + 1).sum(0)
        _equal(results[i], expected > 0 if dtype == tf.bool else expected)
    array, whole, real, slices, variable = results[len(dtypes) :]
    _equal(array, _all(tf.int32).sum(0))
    assert (whole, real) == (sum(ranks), sum(ranks) + len(ranks) / 2)
    _equal(
        tf.convert_to_tensor(slices),
        np.sum([tf.convert_to_tensor(_slices(r)).numpy() for r in ranks], 0),
    )
    _equal(variable, [sum(1.0 + r for r in ranks)])
    assert hvd.grouped_allreduce([]) == []


def check_grouped_allgather_of_mixed_types() -> None:
    rank = hvd.rank()
    dtypes = (tf.float32, tf.int64, tf.bfloat16, tf.float32, tf.uint64, tf.bool)
    values = [tf.constant(_of_rank(rank, dtype, rows=rank + i)) for i, dtype in enumerate(dtypes)]
    results = hvd.grouped_allgather([*values, rank, _of_rank(rank, rows=2)])
    for i, dtype in enumerate(dtypes):
        assert results[i].dtype == dtype
        expected = [np.asarray(_of_rank(r, dtype, rows=r + i), np.float64) for r in _ranks()]
        _equal(results[i], np.concatenate(expected))
    assert results[-2].tolist() == list(_ranks())
    assert type(results[-1]) is np.ndarray
    _equal(results[-1], np.concatenate(_all(rows=2)))
    assert hvd.grouped_allgather([]) == []


def check_grouped_reducescatter_of_mixed_types() -> None:
    rank = hvd.rank()
    dtypes = (tf.float32, tf.int64, tf.bfloat16, tf.uint8)
    values = [tf.constant(_of_rank(rank, dtype, rows=i + 2)) for i, dtype in enumerate(dtypes)]
    results = hvd.grouped_reducescatter([*values, _of_rank(rank)], op=hvd.Sum)
    for i, dtype in enumerate(dtypes):
        assert results[i].dtype == dtype
        _equal(results[i], _slice_of_rank(_all(dtype, rows=i + 2).sum(0)))
    assert type(results[-1]) is np.ndarray
    _equal(results[-1], _slice_of_rank(_all().sum(0)))
    assert hvd.grouped_reducescatter([]) == []


# --- gather, scatter, exchange --------------------------------------------------------------


def check_allgather_of_unequal_rows() -> None:
    def rows(rank: int) -> int:
        return 2 * rank  # rank 0 has none

    for dtype in (tf.float32, tf.bfloat16, tf.int32):
        own = tf.constant(_of_rank(hvd.rank(), dtype, rows=rows(hvd.rank())))
        expected = [np.asarray(_of_rank(r, dtype, rows(r)), np.float64) for r in _ranks()]
        _equal(hvd.allgather(own), np.concatenate(expected))


def check_allgather_of_scalars() -> None:
    for value in (tf.constant(float(hvd.rank())), tf.Variable(float(hvd.rank()))):
        result = hvd.allgather(value)
        assert result.shape == [hvd.size()]
        _equal(result, list(_ranks()))


def _slice_of_rank(rows: np.ndarray) -> np.ndarray:
    """This rank's slice of the first dimension; the first ranks get one row more."""
    return np.array_split(rows, hvd.size())[hvd.rank()]


def check_reducescatter_uneven() -> None:
    for rows in (1, 2, 3, 5, 2 * hvd.size(), 2 * hvd.size() + 1):
        own, everyone = _of_rank(hvd.rank(), rows=rows), _all(rows=rows)
        for result, expected in (
            (hvd.reducescatter(tf.constant(own)), everyone.mean(0)),
            (hvd.reducescatter(own, op=hvd.Sum), everyone.sum(0)),
        ):
            _equal(result, _slice_of_rank(expected), rtol=1e-6)
    for number in (1.0, tf.constant(1.0)):
        with pytest.raises(ValueError, match="first dimension"):
            hvd.reducescatter(number)


def check_alltoall_in_equal_parts() -> None:
    size, rank = hvd.size(), hvd.rank()
    for dtype in (tf.float32, tf.int64, tf.bfloat16):
        own = tf.constant(_of_rank(rank, dtype, rows=2 * size))
        everyone = _all(dtype, rows=2 * size)
        _equal(hvd.alltoall(own), np.concatenate(everyone[:, 2 * rank : 2 * rank + 2]))
    if size > 1:
        with pytest.raises(ValueError, match=f"{size + 1} rows do not divide by {size} ranks"):
            hvd.alltoall(np.zeros(size + 1))


def check_alltoall_with_splits() -> None:
    size, rank = hvd.size(), hvd.rank()

    def splits(sender: int) -> list[int]:
        return [(sender + receiver) % 3 for receiver in _ranks()]

    def rows(sender: int, receiver: int) -> np.ndarray:
        ends = np.cumsum(splits(sender))
        return _of_rank(sender, rows=ends[-1])[ends[receiver] - splits(sender)[receiver] :][
            : splits(sender)[receiver]
        ]

    own = _of_rank(rank, rows=sum(splits(rank)))
    expected = np.concatenate([rows(sender, rank) for sender in _ranks()])
    for given in (splits(rank), np.array(splits(rank)), tf.constant(splits(rank), tf.int64)):
        received, counts = hvd.alltoall(tf.constant(own), given)
        _equal(received, expected)
        assert list(np.asarray(counts)) == [splits(sender)[rank] for sender in _ranks()]
    with pytest.raises(ValueError, match="splits gives"):
        hvd.alltoall(own, [1] * (size + 1))
    with pytest.raises(ValueError, match="splits gives"):
        hvd.alltoall(own, [len(own) + 1] + [0] * (size - 1))
    with pytest.raises(ValueError, match="first dimension"):
        hvd.alltoall(1.0)


# --- broadcast ------------------------------------------------------------------------------


def check_broadcast_from_each_root() -> None:
    for root in _ranks():
        for dtype in (tf.float32, tf.bfloat16, tf.bool, tf.uint64, tf.float16, tf.int8):
            own = tf.constant(_of_rank(hvd.rank(), dtype))
            result = hvd.broadcast(own, root)
            assert result.dtype == dtype
            _equal(result, np.asarray(_of_rank(root, dtype), np.float64))
    for root in (-1, hvd.size()):
        with pytest.raises(ValueError, match=f"root_rank {root} is not among the ranks"):
            hvd.broadcast(tf.zeros(1), root)
        with pytest.raises(ValueError, match=f"root_rank {root} is not among the ranks"):
            hvd.broadcast_object(1, root)
        with pytest.raises(ValueError, match=f"root_rank {root} is not among the ranks"):
            hvd.broadcast_variables([tf.Variable(1.0)], root)


def check_broadcast_variables() -> None:
    for root in _ranks():
        dtypes = (tf.float32, tf.bfloat16, tf.bool, tf.uint64, tf.int32, tf.float64)
        for make in (tf.Variable, keras.Variable):
            variables = [make(_of_rank(hvd.rank(), d, rows=i)) for i, d in enumerate(dtypes)]
            variables.append(make(float(hvd.rank())))
            hvd.broadcast_variables(variables, root_rank=root, inplace=root == 0)
            for i, (variable, dtype) in enumerate(zip(variables, dtypes, strict=False)):
                expected = np.asarray(_of_rank(root, dtype, rows=i), np.float64)
                _equal(tf.convert_to_tensor(variable), expected)
            assert float(variables[-1].numpy()) == root


def check_broadcast_global_variables() -> None:
    with pytest.raises(RuntimeError, match="broadcast_variables"):
        hvd.broadcast_global_variables(0)
    root = hvd.size() - 1
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variable = tf.compat.v1.get_variable("v", initializer=float(hvd.rank()))
        operation = hvd.broadcast_global_variables(root)
        session.run(tf.compat.v1.global_variables_initializer())
        session.run(operation)
        assert session.run(variable) == root


# --- objects --------------------------------------------------------------------------------


def check_broadcast_object() -> None:
    for root in _ranks():
        obj = {"rank": hvd.rank(), "list": [1, 2.0, "three"]} if hvd.rank() == root else None
        assert hvd.broadcast_object(obj, root_rank=root) == {
            "rank": root,
            "list": [1, 2.0, "three"],
        }
        # Where the types differ between ranks, stock Horovod waits for ever.
        kinds = [None, 1, "text", b"bytes", {1, 2}]
        assert hvd.broadcast_object(kinds[hvd.rank()], root, name="kinds") == kinds[root]
        add = hvd.broadcast_object((lambda x, r=root: x + r) if hvd.rank() == root else None, root)
        assert add(1) == 1 + root
        large = np.full(300_000, hvd.rank()) if hvd.rank() == root else None
        np.testing.assert_array_equal(hvd.broadcast_object(large, root), np.full(300_000, root))


def check_broadcast_object_fn() -> None:
    root = hvd.size() - 1
    send = hvd.broadcast_object_fn(root_rank=root, name="again")
    for turn in range(3):
        assert send(("turn", turn, hvd.rank())) == ("turn", turn, root)


def check_allgather_object() -> None:
    def of(rank: int) -> Any:
        return [None, {"a": [rank] * 1000}, "text" * rank, (rank, 2.5)][rank % 4]

    for name in (None, "named"):
        assert hvd.allgather_object(of(hvd.rank()), name=name) == [of(r) for r in _ranks()]


# --- waiting for each other -----------------------------------------------------------------


def check_barrier() -> None:
    for late in _ranks():
        if hvd.rank() == late:
            time.sleep(0.2)
        came = time.time()
        hvd.barrier()
        left = time.time()
        assert left >= max(hvd.allgather_object(came)) - 0.02, "left before everyone had come"


def check_join() -> None:
    for _ in range(2):
        for turn in range(hvd.rank() + 1):
            here = [r for r in _ranks() if r >= turn]
            result = hvd.allreduce(tf.constant([hvd.rank() + 1.0]), op=hvd.Sum, name="uneven")
            _equal(result, [sum(r + 1 for r in here)])
            both = hvd.grouped_allreduce([tf.ones(2), tf.ones(3)], op=hvd.Sum, name="uneven2")
            _equal(both[1], [len(here)] * 3)
        last = hvd.join()
        assert type(last) is int
        assert last in _ranks()
        assert hvd.allgather(last).tolist() == [last] * hvd.size()
        _equal(hvd.allreduce(tf.constant([1.0]), op=hvd.Sum), [hvd.size()])


# --- process sets ---------------------------------------------------------------------------


def check_global_process_set() -> None:
    assert hvd.global_process_set.process_set_id == 0
    assert hvd.global_process_set.size() == hvd.size()
    assert hvd.global_process_set.included()
    result = hvd.allreduce(hvd.rank() + 1, op=hvd.Sum, process_set=hvd.global_process_set)
    assert result == sum(r + 1 for r in _ranks())
    assert hvd.remove_process_set(hvd.global_process_set) is False


def check_collectives_in_process_sets() -> None:
    if hvd.size() < 2:
        return
    even, odd = [r for r in _ranks() if r % 2 == 0], [r for r in _ranks() if r % 2]
    with _process_sets(even, hvd.ProcessSet(odd).ranks) as sets:
        assert [s.ranks for s in sets] == [even, odd]
        mine = sets[hvd.rank() % 2]
        members = mine.ranks
        place = members.index(hvd.rank())
        assert (mine.included(), sets[1 - hvd.rank() % 2].included()) == (True, False)
        assert (mine.size(), mine.rank()) == (len(members), place)
        assert int(hvd.size_op(mine.process_set_id)) == len(members)
        own = _of_rank(hvd.rank(), rows=2 * len(members))
        everyone = np.stack([_of_rank(r, rows=2 * len(members)) for r in members])
        options = {"process_set": mine}
        for dtype in (tf.float32, tf.bfloat16, tf.uint16):
            value = tf.cast(own, dtype)
            _equal(hvd.allreduce(value, op=hvd.Sum, **options), everyone.sum(0))
            _equal(hvd.allgather(value, **options), np.concatenate(everyone))
            _equal(hvd.broadcast(value, members[-1], **options), everyone[-1])
            _equal(
                hvd.alltoall(value, **options),
                np.concatenate(everyone[:, 2 * place : 2 * place + 2]),
            )
            _equal(
                hvd.reducescatter(value, op=hvd.Sum, **options),
                everyone.sum(0)[2 * place : 2 * place + 2],
            )
        _equal(hvd.allreduce(own, **options), everyone.mean(0), rtol=1e-6)
        _equal(hvd.grouped_allreduce([own], **options)[0], everyone.mean(0), rtol=1e-6)
        _equal(hvd.grouped_allgather([own], **options)[0], np.concatenate(everyone))
        slice_ = hvd.grouped_reducescatter([own], **options)[0]
        _equal(slice_, everyone.mean(0)[2 * place : 2 * place + 2], rtol=1e-6)
        assert hvd.allgather_object(f"rank {hvd.rank()}", **options) == [
            f"rank {r}" for r in members
        ]
        assert hvd.broadcast_object(hvd.rank(), members[-1], **options) == members[-1]
        variable = keras.Variable(float(hvd.rank()))
        hvd.broadcast_variables([variable], members[-1], **options)
        assert float(variable.value) == members[-1]
        slices = hvd.allreduce(_slices(hvd.rank()), op=hvd.Sum, **options)
        dense = np.sum([tf.convert_to_tensor(_slices(r)).numpy() for r in members], 0)
        _equal(tf.convert_to_tensor(slices), dense)
        hvd.barrier(mine)


def check_ranks_outside_a_process_set_do_not_take_part() -> None:
    if hvd.size() < 2:
        return
    with _process_sets([0]) as (first,):
        if hvd.rank() == 0:
            # The others are not there, and this does not wait for them.
            assert hvd.allreduce(5, op=hvd.Sum, process_set=first) == 5
            assert hvd.allgather_object("alone", process_set=first) == ["alone"]
        else:
            for collective in (
                lambda **o: hvd.allreduce(1.0, **o),
                lambda **o: hvd.grouped_allreduce([1.0], **o),
                lambda **o: hvd.allgather(1.0, **o),
                lambda **o: hvd.grouped_allgather([1.0], **o),
                lambda **o: hvd.broadcast(1.0, 0, **o),
                lambda **o: hvd.alltoall(np.ones(1), **o),
                lambda **o: hvd.reducescatter(np.ones(1), **o),
                lambda **o: hvd.grouped_reducescatter([np.ones(1)], **o),
                lambda **o: hvd.broadcast_object(1, 0, **o),
                lambda **o: hvd.allgather_object(1, **o),
                lambda **o: hvd.broadcast_variables([tf.Variable(1.0)], 0, **o),
                hvd.barrier,
                lambda **o: hvd.shard(np.ones(8), 2, **o),
            ):
                with pytest.raises(ValueError, match=f"rank {hvd.rank()} does not belong to"):
                    collective(process_set=first)


def check_broadcast_root_outside_the_process_set() -> None:
    if hvd.size() < 2:
        return
    with _process_sets([0]) as (first,):
        if hvd.rank() == 0:
            with pytest.raises(ValueError, match=r"root_rank 1 is not among the ranks \[0\]"):
                hvd.broadcast(1.0, 1, process_set=first)


def check_process_set_that_is_not_registered() -> None:
    loose = hvd.ProcessSet([0])
    for collective in _collectives():
        with pytest.raises(ValueError, match="not registered"):
            collective(process_set=loose)
    assert hvd.remove_process_set(loose) is False
    if hvd.size() > 1:
        with _process_sets([0]) as (removed,):
            pass
        with pytest.raises(ValueError, match="not registered"):
            hvd.allreduce(1.0, process_set=removed)


def _collectives() -> list[Callable[..., Any]]:
    return [
        lambda **o: hvd.allreduce(1.0, **o),
        lambda **o: hvd.grouped_allreduce([1.0], **o),
        lambda **o: hvd.allgather(1.0, **o),
        lambda **o: hvd.grouped_allgather([1.0], **o),
        lambda **o: hvd.broadcast(1.0, 0, **o),
        lambda **o: hvd.alltoall(np.ones(hvd.size()), **o),
        lambda **o: hvd.reducescatter(np.ones(4), **o),
        lambda **o: hvd.broadcast_object(1, **o),
        lambda **o: hvd.allgather_object(1, **o),
        hvd.barrier,
    ]


def check_wrong_process_sets_are_the_same_error_on_all_ranks() -> None:
    messages = []
    duplicates = [list(_ranks())]
    with contextlib.ExitStack() as stack:
        if hvd.size() > 1:
            stack.enter_context(_process_sets([0]))
            duplicates += [[0], hvd.ProcessSet([0])]
        for duplicate in duplicates:
            with pytest.raises(ValueError, match="duplicate") as error:
                hvd.add_process_set(duplicate)
            messages.append(str(error.value))
        for wrong in ([0, hvd.size()], [-1], []):
            with pytest.raises(ValueError, match="rank") as error:
                hvd.add_process_set(wrong)
            messages.append(str(error.value))
        if hvd.size() > 1:
            with pytest.raises(hvd.RankMismatchError, match="process set") as error:
                hvd.add_process_set([hvd.rank()])
            messages.append(str(error.value))
    assert hvd.allgather_object(messages) == [messages] * hvd.size()


# --- in graphs ------------------------------------------------------------------------------


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
            own, rows = _of_rank(rank) + turn, _of_rank(rank, rows=2 * size) + turn
            everyone, all_rows = _all() + turn, _all(rows=2 * size) + turn
            result = function(tf.constant(own), tf.constant(rows))
            total, scattered = everyone.sum(0), _slice_of_rank(all_rows.sum(0))
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
                "number": np.mean(_ranks()),
            }.items():
                _equal(result[name], expected, rtol=1e-6)


def check_gradients() -> None:
    """The gradient of a collective goes back through the other ranks, in every float type."""
    rank, last = hvd.rank(), hvd.size() - 1
    weights = [r + 1.0 for r in _ranks()]
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
        x = tf.cast(_of_rank(rank), dtype)
        for call in (gradients, tf.function(gradients, autograph=False)):
            for name, result in call(x).items():
                assert result is not None, (name, dtype)
                assert result.dtype == dtype, (name, dtype)
                expected = np.full(x.shape, collectives[name][1])
                try:
                    _equal(result, expected, rtol=1e-2)
                except AssertionError as error:
                    raise AssertionError(f"{name} of {dtype.name}: {error}") from error
    with tf.GradientTape() as tape:
        variable = keras.Variable(float(rank))
        loss = hvd.allreduce(variable) * (rank + 1)
    _equal(tape.gradient(loss, variable.value), mean, rtol=1e-6)


# --- names and arguments --------------------------------------------------------------------


def check_names_and_name_scopes() -> None:
    value = tf.constant([hvd.rank() + 1.0])
    total = sum(r + 1 for r in _ranks())

    @tf.function
    def scoped() -> tuple[tf.Tensor, ...]:
        # The scope differs by rank, so the name must leave it out to meet the other ranks'.
        with tf.name_scope(f"of_rank_{hvd.rank()}"):
            return (
                hvd.allreduce(value, op=hvd.Sum, name="a", ignore_name_scope=True),
                hvd.broadcast(value, 0, name="b", ignore_name_scope=True),
                hvd.allgather(value, name="c", ignore_name_scope=True),
                hvd.alltoall(tf.fill([hvd.size()], value[0]), None, "d", True),
                hvd.reducescatter(
                    tf.fill([hvd.size()], value[0]), "e", hvd.Sum, ignore_name_scope=True
                ),
                hvd.allreduce(tf.cast(value, tf.bfloat16), "f", op=hvd.Sum, ignore_name_scope=True),
                hvd.allgather(tf.cast(value, tf.bfloat16), "g", ignore_name_scope=True),
            )

    everyone = [r + 1 for r in _ranks()]
    for result, expected in zip(
        scoped(), ([total], [1], everyone, everyone, [total], [total], everyone), strict=True
    ):
        _equal(result, expected)


def check_first_argument_by_either_name() -> None:
    own = float(hvd.rank())
    for keyword in ("value", "tensor"):
        assert hvd.allreduce(**{keyword: own}, op=hvd.Max) == hvd.size() - 1
        assert hvd.allgather(**{keyword: own}).tolist() == list(_ranks())
        assert hvd.broadcast(**{keyword: own}, root_rank=hvd.size() - 1) == hvd.size() - 1
        rows = np.full(hvd.size(), own)
        assert hvd.reducescatter(**{keyword: rows}, op=hvd.Sum).tolist() == [sum(_ranks())]
    with pytest.raises(TypeError, match="tensor"):
        hvd.allreduce(1.0, tensor=2.0)
    with pytest.raises(TypeError, match="value"):
        hvd.allreduce(value=1.0, tensor=2.0)


def check_signatures_are_those_of_horovod() -> None:
    """Positional names, order and defaults; hvdkit may add arguments after them."""
    import horovod.tensorflow
    import horovod.tensorflow.keras

    compared = 0
    for name in hvd.__all__:
        theirs = getattr(horovod.tensorflow.keras, name, None)
        theirs = theirs or getattr(horovod.tensorflow, name, None)
        ours = getattr(hvd, name)
        if theirs is None or not inspect.isfunction(ours) or ours is theirs or name == "init":
            continue
        compared += 1
        expected = list(inspect.signature(theirs).parameters.values())
        parameters = list(inspect.signature(ours).parameters.values())
        assert _described(parameters[: len(expected)]) == _described(expected), name
        assert all(
            p.kind is p.KEYWORD_ONLY or p.kind is p.VAR_KEYWORD for p in parameters[len(expected) :]
        ), name
        # What only horovod.tensorflow's function has is a keyword of ours.
        other = getattr(horovod.tensorflow, name, theirs)
        more = set(inspect.signature(other).parameters) - {"tensor", "use_locking"}
        assert more <= {p.name for p in parameters}, (name, more)
    assert compared >= 40, compared
    first = list(inspect.signature(hvd.init).parameters)
    assert first[:2] == ["comm", "process_sets"]


def _described(parameters: list[inspect.Parameter]) -> list[tuple[str, Any]]:
    """Names and defaults; a default that is a class or an object counts by its class's name."""

    def default(value: Any) -> Any:
        if isinstance(value, type):
            return value.__name__
        return value if isinstance(value, (int, float, str, bool)) else type(value).__name__

    return [(p.name, default(p.default)) for p in parameters]


def check_everything_horovod_offers_is_here() -> None:
    import horovod.tensorflow.keras

    theirs = vars(horovod.tensorflow.keras)
    internal = {"K", "keras", "tf", "inspect", "warnings", "version"}
    names = {name for name in theirs if not name.startswith("_")} - internal
    names -= {"is_version_greater_equal_than"}
    assert len(names) > 30
    missing = sorted(name for name in names if not hasattr(hvd, name))
    assert not missing, missing
    assert names <= {*hvd.__all__}, sorted(names - {*hvd.__all__})


# --- timeline -------------------------------------------------------------------------------


def check_timeline() -> None:
    @tf.function  # eagerly, TensorFlow does not hand names to operations
    def named(value: tf.Tensor, turn: int) -> tf.Tensor:
        return hvd.allreduce(value, name=f"on_the_timeline_{turn}")

    folder = hvd.broadcast_object(tempfile.mkdtemp() if hvd.rank() == 0 else None)
    for turn in range(2):  # it can be started again
        file = Path(folder) / f"timeline{turn}.json"
        hvd.start_timeline(str(file), mark_cycles=turn == 1)
        named(tf.constant([float(hvd.rank())]), turn)
        hvd.allgather(hvd.rank())
        hvd.barrier()
        hvd.stop_timeline()
        hvd.barrier()
        if hvd.rank() == 0:
            events = json.loads(_text_when_complete(file))
            assert f"on_the_timeline_{turn}" in json.dumps(events)
            found = {event.get("name") for event in events}
            assert {"ALLREDUCE", "ALLGATHER"} <= found, found


def _text_when_complete(file: Path) -> str:
    """The text of a file that another thread is still closing."""
    for _ in range(50):
        text = file.read_text() if file.exists() else ""
        if text.rstrip().endswith("]"):
            return text
        time.sleep(0.1)
    return text


# --- the end --------------------------------------------------------------------------------


def check_init_after_shutdown() -> None:
    """The last check, since Horovod ends here: over MPI it can't start again, over Gloo it can."""
    over_mpi, before = hvd.mpi_enabled(), (hvd.rank(), hvd.size())
    hvd.barrier()
    hvd.shutdown()
    assert hvd.is_initialized() is False
    for call in (hvd.rank, hvd.size, hvd.barrier, lambda: hvd.allreduce(1.0)):
        with pytest.raises(hvd.NotInitializedError, match=r"call hvd\.init\(\)"):
            call()
    if over_mpi:
        with pytest.raises(hvd.HvdkitError, match="can't be started twice"):
            hvd.init()
        return
    hvd.init()
    assert (hvd.rank(), hvd.size()) == before
    assert hvd.allreduce(hvd.rank() + 1, op=hvd.Sum) == sum(r + 1 for r in _ranks())
