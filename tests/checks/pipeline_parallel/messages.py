"""Arrays from rank to rank, as their bytes."""

from __future__ import annotations

import ml_dtypes
import numpy as np
from checks.marks import long

import hvdkit as hvd
from hvdkit.engine.point_to_point import PointToPoint

TYPES = (np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int32, np.int64, np.bool_)


def of_rank(rank: int, dtype: type, shape: tuple[int, ...] = (3, 5)) -> np.ndarray:
    return np.random.default_rng(rank).normal(scale=9, size=shape).astype(dtype)


def check_all_types_go_round() -> None:
    """Each rank sends to the next; nobody waits for a send."""
    messages = PointToPoint(hvd.global_process_set, "a check sends messages")
    assert (messages.index, messages.size) == (hvd.rank(), hvd.size())
    if hvd.size() == 1:
        return
    after, before = (hvd.rank() + 1) % hvd.size(), (hvd.rank() - 1) % hvd.size()
    for dtype in TYPES:
        messages.send(of_rank(hvd.rank(), dtype), after, tag=1)
    for dtype in TYPES:
        expected = of_rank(before, dtype)
        received = messages.receive(np.empty_like(expected), before, tag=1)
        np.testing.assert_array_equal(received, expected)
    messages.flush()


@long
def check_tags_are_kept_apart_and_large_arrays_arrive() -> None:
    messages = PointToPoint(hvd.global_process_set, "a check sends messages")
    if hvd.size() == 1:
        return
    after, before = (hvd.rank() + 1) % hvd.size(), (hvd.rank() - 1) % hvd.size()
    large = (1 << 19,)
    for tag in (0, 1, 2):
        messages.send(of_rank(10 * tag + hvd.rank(), np.float32, large), after, tag)
    for tag in (2, 0, 1):
        expected = of_rank(10 * tag + before, np.float32, large)
        received = messages.receive(np.empty_like(expected), before, tag)
        np.testing.assert_array_equal(received, expected)
    messages.send(np.float32(hvd.rank()), after, tag=3)  # no dimensions
    assert messages.receive(np.empty((), np.float32), before, tag=3) == before
    messages.send(np.empty((0, 4), np.float32), after, tag=3)  # no elements
    assert messages.receive(np.empty((0, 4), np.float32), before, tag=3).size == 0
    messages.flush()


def check_broadcast_from_the_last() -> None:
    messages = PointToPoint(hvd.global_process_set, "a check sends messages")
    last = hvd.size() - 1
    arrays = [of_rank(hvd.rank(), dtype) for dtype in (np.float32, np.int64)]
    messages.broadcast(arrays, last)
    for array in arrays:
        np.testing.assert_array_equal(array, of_rank(last, array.dtype.type))
