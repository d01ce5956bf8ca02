"""One rank of benchmarks/allreduce.py: hvdkit's allreduce and MPI's own, in turn."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable

import hvdkit as hvd

CHAIN = 16
CHAINED = f"each of {CHAIN} in a tf.function"


def _time(call: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def _chain(tensor: object) -> object:
    """Allreduces that wait for each other."""
    for _ in range(CHAIN):
        tensor = hvd.allreduce(tensor, op=hvd.Average)
    return tensor


def main(sizes: list[int], rounds: int) -> None:
    """Time both at each size (bytes), `rounds` times in turn; rank 0 prints the seconds."""
    hvd.init()
    import numpy as np
    import tensorflow as tf
    from mpi4py import MPI

    for size in sizes:
        values = np.ones(size // 4, np.float32)
        result = np.empty_like(values)
        tensor = tf.constant(values)
        reduce = tf.function(lambda t: hvd.allreduce(t, op=hvd.Sum))
        chain = tf.function(_chain)
        calls: dict[str, Callable[[], object]] = {
            "MPI_Allreduce": lambda a=values, b=result: MPI.COMM_WORLD.Allreduce(a, b),
            "hvdkit": lambda t=tensor: hvd.allreduce(t, op=hvd.Sum),
            "hvdkit in a tf.function": lambda t=tensor, r=reduce: r(t),
            CHAINED: lambda t=tensor, c=chain: c(t),
        }
        repeats = max(5, min(200, 2**26 // size))
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for call in calls.values():
            _time(call, 3)
        for _ in range(rounds):
            for name, call in calls.items():
                MPI.COMM_WORLD.Barrier()
                many = CHAIN if name == CHAINED else 1
                seconds[name].append(_time(call, max(3, repeats // many)) / many)
        if hvd.rank() == 0:
            figures = {name: statistics.median(times) for name, times in seconds.items()}
            spread = {name: [min(times), max(times)] for name, times in seconds.items()}
            line = {"bytes": size, "median": figures, "range": spread}
            sys.stdout.write(f"ALLREDUCE {json.dumps(line)}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main([int(size) for size in sys.argv[2].split(",")], int(sys.argv[1]))
