"""Who am I, how many are we, and what was Horovod built with."""

from __future__ import annotations

import tensorflow as tf

from hvdkit.engine.launcher import read_launch
from hvdkit.engine.native import ProcessSet, global_process_set, mpi_ops, require_initialized


def size() -> int:
    """Number of ranks in the job."""
    require_initialized("hvd.size()")
    return int(mpi_ops.size())


def rank() -> int:
    """This process's rank, 0 to `size() - 1`."""
    require_initialized("hvd.rank()")
    return int(mpi_ops.rank())


def local_size() -> int:
    """Number of ranks on this host."""
    require_initialized("hvd.local_size()")
    return int(mpi_ops.local_size())


def local_rank() -> int:
    """This process's rank among those of its host."""
    require_initialized("hvd.local_rank()")
    return int(mpi_ops.local_rank())


def cross_size() -> int:
    """Number of hosts that have a process with this local rank."""
    require_initialized("hvd.cross_size()")
    return int(mpi_ops.cross_size())


def cross_rank() -> int:
    """This host's rank among those that have a process with this local rank."""
    require_initialized("hvd.cross_rank()")
    return int(mpi_ops.cross_rank())


def is_homogeneous() -> bool:
    """Whether every host runs the same number of ranks."""
    require_initialized("hvd.is_homogeneous()")
    return bool(mpi_ops.is_homogeneous())


def mpi_threads_supported() -> bool:
    """Whether MPI was started with support for several threads (needed to mix in mpi4py)."""
    require_initialized("hvd.mpi_threads_supported()")
    return mpi_enabled() and bool(mpi_ops.mpi_threads_supported())


def mpi_enabled() -> bool:
    """Whether MPI moves the data of this job."""
    return bool(mpi_ops.mpi_enabled())


def mpi_built() -> bool:
    """Whether Horovod was built with MPI."""
    return bool(mpi_ops.mpi_built())


def gloo_enabled() -> bool:
    """Whether Gloo moves the data of this job."""
    return bool(mpi_ops.gloo_enabled())


def gloo_built() -> bool:
    """Whether Horovod was built with Gloo."""
    return bool(mpi_ops.gloo_built())


def nccl_built() -> int:
    """NCCL's version code if Horovod was built with NCCL, else 0."""
    return int(mpi_ops.nccl_built())


def ddl_built() -> bool:
    """Whether Horovod was built with IBM's DDL."""
    return bool(mpi_ops.ddl_built())


def ccl_built() -> bool:
    """Whether Horovod was built with Intel's oneCCL."""
    return bool(mpi_ops.ccl_built())


def cuda_built() -> bool:
    """Whether Horovod was built with CUDA."""
    return bool(mpi_ops.cuda_built())


def rocm_built() -> bool:
    """Whether Horovod was built with ROCm."""
    return bool(mpi_ops.rocm_built())


def process_set_size(process_set: ProcessSet = global_process_set) -> int:
    """Number of ranks in `process_set`.

    Raises:
        ValueError: `process_set` was not registered with `init` or `add_process_set`.
    """
    require_initialized("a process set")
    if process_set.process_set_id is None:
        raise ValueError(
            f"{process_set} is not registered: pass it to hvd.init(process_sets=[...]) "
            "or to hvd.add_process_set(...), on every rank."
        )
    return int(process_set.size())


def _asks_when_run() -> bool:
    """Whether a graph that is made now may run with other ranks: that of an elastic job."""
    return read_launch().is_elastic and not tf.executing_eagerly()


def ranks_when_run(process_set: ProcessSet = global_process_set) -> int | tf.Tensor:
    """Number of ranks in `process_set`; in a graph of an elastic job, when the graph runs."""
    number = process_set_size(process_set)
    if not _asks_when_run():
        return number
    with tf.device("CPU:0"):
        return mpi_ops.size_op(process_set_id=process_set.process_set_id)


def place_when_run(process_set: ProcessSet = global_process_set) -> int | tf.Tensor:
    """This rank's place in `process_set`; in a graph of an elastic job, when the graph runs."""
    place = process_set_ranks(process_set).index(rank())
    if not _asks_when_run() or process_set.process_set_id:
        return place
    with tf.device("CPU:0"):
        return mpi_ops.rank_op()


def process_set_ranks(process_set: ProcessSet = global_process_set) -> list[int]:
    """The global ranks that belong to `process_set`, in order."""
    process_set_size(process_set)
    return list(process_set.ranks) if process_set.ranks else list(range(size()))


def require_member(process_set: ProcessSet = global_process_set) -> None:
    """Raise ValueError on a rank that does not belong to `process_set`."""
    if process_set.process_set_id != 0 and not in_process_set(process_set):
        raise ValueError(
            f"rank {rank()} does not belong to the process set {process_set_ranks(process_set)}: "
            "only its ranks take part."
        )


def require_root(root_rank: int, process_set: ProcessSet = global_process_set) -> None:
    """Raise ValueError unless `root_rank` (a global rank) belongs to `process_set`."""
    ranks = process_set_ranks(process_set)
    if root_rank not in ranks:
        raise ValueError(f"root_rank {root_rank} is not among the ranks {ranks}.")


def in_process_set(process_set: ProcessSet = global_process_set) -> bool:
    """Whether this rank belongs to `process_set`."""
    return rank() in process_set_ranks(process_set)


def size_op(process_set_id: int = 0, name: str | None = None) -> tf.Tensor:
    """`size()` as an operation that is evaluated when the graph runs (int32 scalar)."""
    require_initialized("hvd.size_op()")
    return mpi_ops.size_op(process_set_id=process_set_id, name=name)


def process_set_included_op(process_set_id: int = 0, name: str | None = None) -> tf.Tensor:
    """Whether this rank belongs to a process set, evaluated when the graph runs.

    Args:
        process_set_id: the number of a process set (`process_set.process_set_id`).
        name: the operation's name.

    Returns:
        An int32 scalar: 1 or 0, or a negative number where there is no such process set.
    """
    require_initialized("hvd.process_set_included_op()")
    return mpi_ops.process_set_included_op(process_set_id=process_set_id, name=name)


def rank_op(name: str | None = None) -> tf.Tensor:
    """`rank()` as an operation that is evaluated when the graph runs (int32 scalar)."""
    require_initialized("hvd.rank_op()")
    return mpi_ops.rank_op(name=name)


def local_rank_op(name: str | None = None) -> tf.Tensor:
    """`local_rank()` as an operation that is evaluated when the graph runs (int32 scalar)."""
    require_initialized("hvd.local_rank_op()")
    return mpi_ops.local_rank_op(name=name)


def local_size_op(name: str | None = None) -> tf.Tensor:
    """`local_size()` as an operation that is evaluated when the graph runs (int32 scalar)."""
    require_initialized("hvd.local_size_op()")
    return mpi_ops.local_size_op(name=name)
