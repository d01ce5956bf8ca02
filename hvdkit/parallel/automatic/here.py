"""The machines of this job as a cluster, measured quickly; all ranks call it.

`hvdkit plan measure` does it with more care, and writes a file.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import tensorflow as tf

from hvdkit.engine import ProcessSet, Sum, allgather_object, global_process_set, ops, topology
from hvdkit.engine.hosts import ranks_by_host
from hvdkit.engine.process_sets import process_set_of_ranks
from hvdkit.planner.cluster import Cluster, Hosts
from hvdkit.planner.devices import Device, Rate
from hvdkit.planner.links import Link, Network
from hvdkit.planner.memory_limit import rank_memory_limit

_SIDE = 512  # of the matrices that are multiplied
_MEMORY_BYTES = 2**24
_SUMMED_BYTES = (2**12, 2**18, 2**22)
_ROUNDS = 3


def cluster_here() -> Cluster:
    """What this job runs on: each rank a device as slow as the slowest."""
    hosts = ranks_by_host()
    device = _device()
    table = _table(global_process_set)
    if len(hosts) == 1:
        network = Network(_link(table, topology.size()))
    else:
        own = next(ranks for ranks in hosts if topology.rank() in ranks)
        # All ranks register the process sets of all hosts, in one order.
        sets = [process_set_of_ranks(ranks) for ranks in hosts]
        inside = _table(sets[hosts.index(own)])
        network = Network(_link(inside, max(map(len, hosts))), _link(table, topology.size()))
    return Cluster("this job", tuple(Hosts(1, len(ranks), device) for ranks in hosts), network)


def _device() -> Device:
    ones = tf.ones((_SIDE, _SIDE))
    rates = {32: _rate(ones)}
    has_gpu = bool(tf.config.list_logical_devices("GPU"))
    # CPUs widen numbers of 16 bits before they compute.
    rates[16] = _rate(tf.cast(ones, tf.bfloat16)) if has_gpu else rates[32]
    values = tf.ones([_MEMORY_BYTES // 4])
    seconds = _together(lambda: (values + values)[0].numpy())
    own = rates, 3 * _MEMORY_BYTES / seconds, rank_memory_limit(topology.local_size())
    everyone = allgather_object(own, name="hvdkit.devices")
    slowest = {bits: min(rates[bits] for rates, _, _ in everyone) for bits in rates}
    return Device(
        "GPU" if has_gpu else "CPU share",
        {bits: Rate(rate, rate) for bits, rate in slowest.items()},
        min(memory for _, _, memory in everyone),
        min(bandwidth for _, bandwidth, _ in everyone),
    )


def _rate(matrix: tf.Tensor) -> float:
    return float(2 * _SIDE**3 / _together(lambda: tf.reduce_sum(tf.matmul(matrix, matrix)).numpy()))


def _table(process_set: ProcessSet) -> list[tuple[int, float]]:
    """Seconds of all-reduces, of the rank that waits longest."""
    if topology.process_set_size(process_set) == 1:
        own = [0.0] * len(_SUMMED_BYTES)
    else:
        own = [_summed(size, process_set) for size in _SUMMED_BYTES]
    everyone = allgather_object(own, name="hvdkit.all_reduces")
    return list(zip(_SUMMED_BYTES, map(max, zip(*everyone, strict=True)), strict=True))


def _summed(size: int, process_set: ProcessSet) -> float:
    values = tf.ones([size // 4])
    name = f"hvdkit.measured.{size}"
    return _together(lambda: ops.allreduce(values, Sum, name=name, process_set=process_set).numpy())


def _link(table: Sequence[tuple[int, float]], ranks: int) -> Link:
    return Link.from_table(table, ranks) if ranks > 1 else Link(float("inf"))


def _together(call: Callable[[], object]) -> float:
    """The median of the seconds of a call, where all ranks do it at once."""
    call()
    ops.barrier()
    found = []
    for _ in range(_ROUNDS):
        begin = time.perf_counter()
        call()
        found.append(time.perf_counter() - begin)
    return statistics.median(found)
