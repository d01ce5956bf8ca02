"""How values are combined: operations, factors, compression and Adasum."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import tensorflow as tf
from checks.collectives.reference import all_ranks, assert_equal, of_all_ranks, of_rank, own_slice

import hvdkit as hvd


def check_operations() -> None:
    for dtype in (tf.float16, tf.float32, tf.float64, tf.int32, tf.int64, tf.uint8, tf.int16):
        own, everyone = tf.constant(of_rank(hvd.rank(), dtype, rows=1)), of_all_ranks(dtype, rows=1)
        for op, combine in (
            (hvd.Sum, np.sum),
            (hvd.Min, np.min),
            (hvd.Max, np.max),
            (hvd.Product, np.prod),
        ):
            expected = combine(everyone, 0)
            if expected.max() < min(dtype.max, 2048):
                assert_equal(hvd.allreduce(own, op=op), expected)
                assert_equal(hvd.grouped_allreduce([own, own + 0], op=op)[1], expected)
    with pytest.raises(TypeError, match="bfloat16"):
        hvd.allreduce(tf.constant(1.0, tf.bfloat16), op=hvd.Max)


def check_average_argument() -> None:
    value, ranks = float(hvd.rank()), list(all_ranks())
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
    own, everyone = of_rank(hvd.rank()), of_all_ranks()
    for dtype in (tf.float16, tf.bfloat16, tf.float32, tf.float64):
        result = hvd.allreduce(
            tf.cast(own, dtype), op=hvd.Sum, prescale_factor=0.5, postscale_factor=4.0
        )
        assert result.dtype == dtype
        assert_equal(result, 2 * everyone.sum(0))
    result = hvd.grouped_allreduce([own], prescale_factor=0.25, postscale_factor=8.0)[0]
    assert_equal(result, 2 * everyone.mean(0), rtol=1e-6)
    slice_ = hvd.reducescatter(own, op=hvd.Sum, prescale_factor=0.5, postscale_factor=4.0)
    assert_equal(slice_, own_slice(2 * everyone.sum(0)))
    slice_ = hvd.grouped_reducescatter([own], prescale_factor=0.5, postscale_factor=4.0)[0]
    assert_equal(slice_, own_slice(2 * everyone.mean(0)), rtol=1e-6)
    # A value that float16 can't hold before it is scaled down, and after it is scaled up.
    huge = tf.constant([60000.0], tf.float16)
    small = 1.0 / 64 / hvd.size()
    assert_equal(hvd.allreduce(huge, op=hvd.Sum, prescale_factor=small), [937.5], rtol=2e-3)


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
                    assert_equal(result, [expected])
        whole = tf.constant([2**20 + hvd.rank()])
        assert_equal(
            hvd.allreduce(whole, op=hvd.Sum, compression=compression),
            [sum(2**20 + r for r in all_ranks())],
        )
        slice_ = hvd.reducescatter(
            tf.ones([hvd.size(), 2]) * (hvd.rank() + 1), op=hvd.Sum, compression=compression
        )
        assert_equal(slice_, [[sum(r + 1 for r in all_ranks())] * 2])


def _adasum(vectors: list[np.ndarray]) -> np.ndarray:
    """Adasum of 2^k vectors, by the formula of Maleki et al., https://arxiv.org/abs/2006.02924."""
    if len(vectors) == 1:
        return vectors[0]
    half = len(vectors) // 2
    a, b = _adasum(vectors[:half]), _adasum(vectors[half:])
    dot = a @ b
    return (1 - dot / (2 * a @ a)) * a + (1 - dot / (2 * b @ b)) * b


def check_adasum() -> None:
    vectors = [np.random.default_rng(r).normal(size=20) for r in all_ranks()]
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
        assert_equal(result, _adasum(vectors), rtol=rtol, atol=rtol)
    with pytest.raises(TypeError, match="Adasum"):
        hvd.allreduce(tf.constant([hvd.rank()]), op=hvd.Adasum)
    with pytest.raises(TypeError, match="Adasum"):
        hvd.allreduce(hvd.rank(), op=hvd.Adasum)
