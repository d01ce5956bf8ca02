"""Gather, scatter, exchange and broadcast: which rows end up where."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from checks.collectives.reference import all_ranks, assert_equal, of_all_ranks, of_rank, own_slice

import hvdkit as hvd


def check_allgather_of_unequal_rows() -> None:
    def rows(rank: int) -> int:
        return 2 * rank  # rank 0 has none

    for dtype in (tf.float32, tf.bfloat16, tf.int32):
        own = tf.constant(of_rank(hvd.rank(), dtype, rows=rows(hvd.rank())))
        expected = [np.asarray(of_rank(r, dtype, rows(r)), np.float64) for r in all_ranks()]
        assert_equal(hvd.allgather(own), np.concatenate(expected))


def check_allgather_of_scalars() -> None:
    for value in (tf.constant(float(hvd.rank())), tf.Variable(float(hvd.rank()))):
        result = hvd.allgather(value)
        assert result.shape == [hvd.size()]
        assert_equal(result, list(all_ranks()))


def check_reducescatter_uneven() -> None:
    for rows in (1, 2, 3, 5, 2 * hvd.size(), 2 * hvd.size() + 1):
        own, everyone = of_rank(hvd.rank(), rows=rows), of_all_ranks(rows=rows)
        for result, expected in (
            (hvd.reducescatter(tf.constant(own)), everyone.mean(0)),
            (hvd.reducescatter(own, op=hvd.Sum), everyone.sum(0)),
        ):
            assert_equal(result, own_slice(expected), rtol=1e-6)
    for number in (1.0, tf.constant(1.0)):
        with pytest.raises(ValueError, match="first dimension"):
            hvd.reducescatter(number)


def check_alltoall_in_equal_parts() -> None:
    size, rank = hvd.size(), hvd.rank()
    for dtype in (tf.float32, tf.int64, tf.bfloat16):
        own = tf.constant(of_rank(rank, dtype, rows=2 * size))
        everyone = of_all_ranks(dtype, rows=2 * size)
        assert_equal(hvd.alltoall(own), np.concatenate(everyone[:, 2 * rank : 2 * rank + 2]))
    if size > 1:
        with pytest.raises(ValueError, match=f"{size + 1} rows do not divide by {size} ranks"):
            hvd.alltoall(np.zeros(size + 1))


def check_alltoall_with_splits() -> None:
    size, rank = hvd.size(), hvd.rank()

    def splits(sender: int) -> list[int]:
        return [(sender + receiver) % 3 for receiver in all_ranks()]

    def rows(sender: int, receiver: int) -> np.ndarray:
        ends = np.cumsum(splits(sender))
        return of_rank(sender, rows=ends[-1])[ends[receiver] - splits(sender)[receiver] :][
            : splits(sender)[receiver]
        ]

    own = of_rank(rank, rows=sum(splits(rank)))
    expected = np.concatenate([rows(sender, rank) for sender in all_ranks()])
    for given in (splits(rank), np.array(splits(rank)), tf.constant(splits(rank), tf.int64)):
        received, counts = hvd.alltoall(tf.constant(own), given)
        assert_equal(received, expected)
        assert list(np.asarray(counts)) == [splits(sender)[rank] for sender in all_ranks()]
    with pytest.raises(ValueError, match="splits gives"):
        hvd.alltoall(own, [1] * (size + 1))
    with pytest.raises(ValueError, match="splits gives"):
        hvd.alltoall(own, [len(own) + 1] + [0] * (size - 1))
    with pytest.raises(ValueError, match="first dimension"):
        hvd.alltoall(1.0)


def check_broadcast_from_each_root() -> None:
    for root in all_ranks():
        for dtype in (tf.float32, tf.bfloat16, tf.bool, tf.uint64, tf.float16, tf.int8):
            own = tf.constant(of_rank(hvd.rank(), dtype))
            result = hvd.broadcast(own, root)
            assert result.dtype == dtype
            assert_equal(result, np.asarray(of_rank(root, dtype), np.float64))
    for root in (-1, hvd.size()):
        with pytest.raises(ValueError, match=f"root_rank {root} is not among the ranks"):
            hvd.broadcast(tf.zeros(1), root)
        with pytest.raises(ValueError, match=f"root_rank {root} is not among the ranks"):
            hvd.broadcast_object(1, root)
        with pytest.raises(ValueError, match=f"root_rank {root} is not among the ranks"):
            hvd.broadcast_variables([tf.Variable(1.0)], root)


def check_broadcast_variables() -> None:
    for root in all_ranks():
        dtypes = (tf.float32, tf.bfloat16, tf.bool, tf.uint64, tf.int32, tf.float64)
        for make in (tf.Variable, keras.Variable):
            variables = [make(of_rank(hvd.rank(), d, rows=i)) for i, d in enumerate(dtypes)]
            variables.append(make(float(hvd.rank())))
            hvd.broadcast_variables(variables, root_rank=root, inplace=root == 0)
            for i, (variable, dtype) in enumerate(zip(variables, dtypes, strict=False)):
                expected = np.asarray(of_rank(root, dtype, rows=i), np.float64)
                assert_equal(tf.convert_to_tensor(variable), expected)
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
