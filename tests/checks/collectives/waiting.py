"""Waiting for each other: barrier and join."""

from __future__ import annotations

import time

import tensorflow as tf
from checks.collectives.reference import all_ranks, assert_equal

import hvdkit as hvd


def check_barrier() -> None:
    for late in all_ranks():
        if hvd.rank() == late:
            time.sleep(0.2)
        came = time.time()
        hvd.barrier()
        left = time.time()
        assert left >= max(hvd.allgather_object(came)) - 0.02, "left before everyone had come"


def check_join() -> None:
    for _ in range(2):
        for turn in range(hvd.rank() + 1):
            here = [r for r in all_ranks() if r >= turn]
            result = hvd.allreduce(tf.constant([hvd.rank() + 1.0]), op=hvd.Sum, name="uneven")
            assert_equal(result, [sum(r + 1 for r in here)])
            both = hvd.grouped_allreduce([tf.ones(2), tf.ones(3)], op=hvd.Sum, name="uneven2")
            assert_equal(both[1], [len(here)] * 3)
        last = hvd.join()
        assert type(last) is int
        assert last in all_ranks()
        assert hvd.allgather(last).tolist() == [last] * hvd.size()
        assert_equal(hvd.allreduce(tf.constant([1.0]), op=hvd.Sum), [hvd.size()])
