"""Who am I, how many are we, and what was Horovod built with."""

from __future__ import annotations

import os

import tensorflow as tf
from checks.collectives.reference import all_ranks, assert_equal
from checks.marks import long

import hvdkit as hvd


@long
def check_ranks_and_sizes() -> None:
    ranks = [hvd.rank(), hvd.local_rank(), hvd.cross_rank()]
    sizes = [hvd.size(), hvd.local_size(), hvd.cross_size()]
    assert all(type(number) is int for number in ranks + sizes)
    assert hvd.allgather(hvd.rank()).tolist() == list(all_ranks())
    assert hvd.allgather(hvd.local_rank()).tolist() == list(all_ranks()), "all on one host"
    assert sizes == [hvd.size(), hvd.size(), 1]
    assert hvd.cross_rank() == 0
    assert hvd.is_homogeneous() is True
    launched = os.environ.get("OMPI_COMM_WORLD_SIZE") or os.environ.get("HOROVOD_SIZE")
    assert hvd.size() == int(launched or 1)


@long
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
    assert_equal(
        hvd.allreduce(tf.constant(hvd.rank() + 1.0), op=hvd.Sum), sum(r + 1 for r in all_ranks())
    )
