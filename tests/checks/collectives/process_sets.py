"""Collectives of some of the ranks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from checks.collectives.reference import (
    all_ranks,
    assert_equal,
    of_rank,
    process_sets,
    sparse_of_rank,
)

import hvdkit as hvd

# Each takes `process_set` and no more.
COLLECTIVES: tuple[Callable[..., Any], ...] = (
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
)


def check_global_process_set() -> None:
    assert hvd.global_process_set.process_set_id == 0
    assert hvd.global_process_set.size() == hvd.size()
    assert hvd.global_process_set.included()
    result = hvd.allreduce(hvd.rank() + 1, op=hvd.Sum, process_set=hvd.global_process_set)
    assert result == sum(r + 1 for r in all_ranks())
    assert hvd.remove_process_set(hvd.global_process_set) is False


def check_collectives_in_process_sets() -> None:
    if hvd.size() < 2:
        return
    even, odd = [r for r in all_ranks() if r % 2 == 0], [r for r in all_ranks() if r % 2]
    with process_sets(even, hvd.ProcessSet(odd).ranks) as sets:
        assert [s.ranks for s in sets] == [even, odd]
        mine = sets[hvd.rank() % 2]
        members = mine.ranks
        place = members.index(hvd.rank())
        assert (mine.included(), sets[1 - hvd.rank() % 2].included()) == (True, False)
        assert (mine.size(), mine.rank()) == (len(members), place)
        assert int(hvd.size_op(mine.process_set_id)) == len(members)
        own = of_rank(hvd.rank(), rows=2 * len(members))
        everyone = np.stack([of_rank(r, rows=2 * len(members)) for r in members])
        options = {"process_set": mine}
        for dtype in (tf.float32, tf.bfloat16, tf.uint16):
            value = tf.cast(own, dtype)
            assert_equal(hvd.allreduce(value, op=hvd.Sum, **options), everyone.sum(0))
            assert_equal(hvd.allgather(value, **options), np.concatenate(everyone))
            assert_equal(hvd.broadcast(value, members[-1], **options), everyone[-1])
            assert_equal(
                hvd.alltoall(value, **options),
                np.concatenate(everyone[:, 2 * place : 2 * place + 2]),
            )
            assert_equal(
                hvd.reducescatter(value, op=hvd.Sum, **options),
                everyone.sum(0)[2 * place : 2 * place + 2],
            )
        assert_equal(hvd.allreduce(own, **options), everyone.mean(0), rtol=1e-6)
        assert_equal(hvd.grouped_allreduce([own], **options)[0], everyone.mean(0), rtol=1e-6)
        assert_equal(hvd.grouped_allgather([own], **options)[0], np.concatenate(everyone))
        slice_ = hvd.grouped_reducescatter([own], **options)[0]
        assert_equal(slice_, everyone.mean(0)[2 * place : 2 * place + 2], rtol=1e-6)
        assert hvd.allgather_object(f"rank {hvd.rank()}", **options) == [
            f"rank {r}" for r in members
        ]
        assert hvd.broadcast_object(hvd.rank(), members[-1], **options) == members[-1]
        variable = keras.Variable(float(hvd.rank()))
        hvd.broadcast_variables([variable], members[-1], **options)
        assert float(variable.value) == members[-1]
        slices = hvd.allreduce(sparse_of_rank(hvd.rank()), op=hvd.Sum, **options)
        dense = np.sum([tf.convert_to_tensor(sparse_of_rank(r)).numpy() for r in members], 0)
        assert_equal(tf.convert_to_tensor(slices), dense)
        hvd.barrier(mine)


def check_ranks_outside_a_process_set_do_not_take_part() -> None:
    if hvd.size() < 2:
        return
    with process_sets([0]) as (first,):
        if hvd.rank() == 0:
            # The others are not there, and this does not wait for them.
            assert hvd.allreduce(5, op=hvd.Sum, process_set=first) == 5
            assert hvd.allgather_object("alone", process_set=first) == ["alone"]
        else:
            for collective in (
                *COLLECTIVES,
                lambda **o: hvd.grouped_reducescatter([np.ones(1)], **o),
                lambda **o: hvd.broadcast_variables([tf.Variable(1.0)], 0, **o),
                lambda **o: hvd.shard(np.ones(8), 2, **o),
            ):
                with pytest.raises(ValueError, match=f"rank {hvd.rank()} does not belong to"):
                    collective(process_set=first)


def check_broadcast_root_outside_the_process_set() -> None:
    if hvd.size() < 2:
        return
    with process_sets([0]) as (first,):
        if hvd.rank() == 0:
            with pytest.raises(ValueError, match=r"root_rank 1 is not among the ranks \[0\]"):
                hvd.broadcast(1.0, 1, process_set=first)


def check_process_set_that_is_not_registered() -> None:
    loose = hvd.ProcessSet([0])
    for collective in COLLECTIVES:
        with pytest.raises(ValueError, match="not registered"):
            collective(process_set=loose)
    assert hvd.remove_process_set(loose) is False
    if hvd.size() > 1:
        with process_sets([0]) as (removed,):
            pass
        with pytest.raises(ValueError, match="not registered"):
            hvd.allreduce(1.0, process_set=removed)


def check_wrong_process_sets_are_the_same_error_on_all_ranks() -> None:
    messages = []
    duplicates = [list(all_ranks())]
    with contextlib.ExitStack() as stack:
        if hvd.size() > 1:
            stack.enter_context(process_sets([0]))
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
