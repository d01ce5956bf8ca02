"""Every type of TensorFlow's: summed, averaged and moved."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from checks.collectives.reference import all_ranks, assert_equal, of_all_ranks, of_rank, own_slice

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


def check_every_type_is_summed() -> None:
    for dtype in FLOATS + INTEGERS:
        own = tf.constant(of_rank(hvd.rank(), dtype))
        result = hvd.allreduce(own, op=hvd.Sum)
        assert result.dtype == dtype
        assert_equal(result, of_all_ranks(dtype).sum(0))
        slice_ = hvd.reducescatter(own, op=hvd.Sum)
        assert slice_.dtype == dtype
        assert_equal(slice_, own_slice(of_all_ranks(dtype).sum(0)))
    result = hvd.allreduce(tf.constant([hvd.rank() == 0, hvd.rank() == -1]), op=hvd.Sum)
    assert result.dtype == tf.bool
    assert result.numpy().tolist() == [True, False]


def check_every_type_is_averaged() -> None:
    for dtype in FLOATS:
        result = hvd.allreduce(tf.constant(of_rank(hvd.rank(), dtype)))
        assert result.dtype == dtype
        assert_equal(result, of_all_ranks(dtype).mean(0), rtol=1e-2 if dtype.size == 2 else 1e-6)
    for dtype in INTEGERS:
        result = hvd.allreduce(tf.constant(of_rank(hvd.rank(), dtype)))
        assert result.dtype == dtype
        assert np.abs(np.asarray(result, np.float64) - of_all_ranks(dtype).mean(0)).max() < 1


def check_averages_of_small_integers_do_not_overflow() -> None:
    for dtype, large in ((tf.uint8, 250), (tf.int8, 120), (tf.int16, 32000), (tf.uint16, 65000)):
        mean = np.mean([large - 30 * r for r in all_ranks()])
        own = tf.fill([hvd.size()], tf.cast(large - 30 * hvd.rank(), dtype))
        for result in (hvd.allreduce(own), hvd.reducescatter(own)):
            assert result.dtype == dtype
            assert abs(int(result[0]) - mean) <= 1, (dtype, result)


def check_every_type_moves_exactly() -> None:
    for dtype in (tf.bool, *FLOATS, *INTEGERS, *COMPLEX):
        own, everyone = tf.constant(of_rank(hvd.rank(), dtype)), of_all_ranks(dtype)
        last = hvd.size() - 1
        gathered = hvd.allgather(own)
        (grouped,) = hvd.grouped_allgather([own])
        sent = hvd.broadcast(own, last)
        received, _ = hvd.alltoall(own, [0] * last + [3])
        for result in (gathered, grouped, sent, received):
            assert result.dtype == dtype
        assert_equal(gathered, np.concatenate(everyone))
        assert_equal(grouped, np.concatenate(everyone))
        assert_equal(sent, everyone[-1])
        expected = np.concatenate(everyone) if hvd.rank() == last else np.zeros((0, 2))
        assert_equal(received, expected)
        scalar = hvd.broadcast(own[0, 0], last)
        assert scalar.shape == []
        assert_equal(scalar, everyone[-1][0, 0])


def check_large_values_move_exactly() -> None:
    for dtype in (tf.int64, tf.uint64, tf.uint32, tf.float64):
        large = np.array([dtype.max], dtype.as_numpy_dtype)
        own = tf.constant(large if hvd.rank() == hvd.size() - 1 else large * 0)
        assert hvd.broadcast(own, hvd.size() - 1).numpy() == large
        assert hvd.allgather(own).numpy()[-1] == large
        if dtype != tf.uint64:
            assert hvd.allreduce(own, op=hvd.Max).numpy() == large
