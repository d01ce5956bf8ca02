"""One rank of `hvdkit plan measure`: speed of products, memory and all-reduces.

All ranks do each at the same time, as in a training. Rank 0 prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

MARK = "HVDKIT-PLAN "
KIB = 2**10
_PRODUCT_SIDES = (512, 1024, 2048, 4096)
_LONG_SECONDS = 0.5
_MEMORY_BYTES = 2**28


def main(largest: float, rounds: int) -> None:
    """Measure; sizes in MiB."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import hvdkit as hvd

    hvd.init()
    import tensorflow as tf

    from hvdkit.planner.memory_limit import rank_memory_limit

    def together(call: Callable[[], object], repeats: int) -> float:
        """The median over rounds of the seconds of a call, where all ranks do it at once."""
        call()
        found = []
        for _ in range(rounds):
            hvd.barrier()
            begin = time.perf_counter()
            for _ in range(repeats):
                call()
            found.append((time.perf_counter() - begin) / repeats)
        return statistics.median(found)

    mine = {
        "host": socket.gethostname(),
        "rates": {bits: _rate(tf, together, dtype) for bits, dtype in _dtypes(tf).items()},
        "bandwidth": _bandwidth(tf, together),
        "memory": rank_memory_limit(hvd.local_size()),
        "device": _device_name(tf),
        "local_size": hvd.local_size(),
    }
    table = {}
    size = 4 * KIB
    while size <= largest * 2**20:
        reduce = partial(_reduced, tf.function(hvd.allreduce), tf.ones([size // 4]))
        table[size] = together(reduce, max(1, min(50, 2**24 // size)))
        size *= 4
    every = hvd.allgather_object(mine)
    slowest = hvd.allgather_object(table)
    if hvd.rank() == 0:
        times = {str(s): max(each[s] for each in slowest) for s in table}
        found = {"ranks": every, "all_reduce": times}
        sys.stdout.write(f"{MARK}{json.dumps(found)}\n")
        sys.stdout.flush()


def _reduced(reduce: Any, tensor: Any) -> Any:
    return reduce(tensor).numpy()


def _dtypes(tf: Any) -> dict[str, object]:
    """16 bits only where the device computes with them; CPUs widen them first."""
    found = {"32-bit": tf.float32}
    if tf.config.list_logical_devices("GPU"):
        found["16-bit"] = tf.bfloat16
    return found


def _rate(tf: Any, together: Callable[..., float], dtype: object) -> float:
    """FLOP/s of the best of some square products."""
    best = 0.0
    for side in _PRODUCT_SIDES:
        matrix = tf.cast(tf.random.normal([side, side]), dtype)
        product = tf.function(lambda a: tf.reduce_sum(tf.matmul(a, a)))
        seconds = together(lambda p=product, m=matrix: p(m).numpy(), 1)
        best = max(best, 2.0 * side**3 / seconds)
        if seconds > _LONG_SECONDS:
            break
    return best


def _bandwidth(tf: Any, together: Callable[..., float]) -> float:
    """Bytes a second of an addition: two operands are read, one is written."""
    values = tf.random.normal([_MEMORY_BYTES // 4])
    variable = tf.Variable(values)
    add = tf.function(lambda: variable.assign_add(values).shape[0])
    return 3.0 * _MEMORY_BYTES / together(lambda: add(), 1)


def _device_name(tf: Any) -> str:
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        return str(details.get("device_name", "GPU"))
    return "CPU share"


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
