"""Run by the doctor in two ranks, each on another host: how fast an allreduce between them is.

Rank 0 prints one line of JSON: what another host writes to a file may not be seen here.
"""

import json
import os
import socket
import statistics
import time

MARK = "HVDKIT-PAIR "
_SMALL_FLOATS = 1024
_LARGEST_FLOATS = 16 * 2**20
_TIMES = 20
# As long as an allreduce has to take for its speed to be measured well.
_ENOUGH_SECONDS = 0.3


def main() -> None:
    """Measure, and print the result on rank 0."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import horovod.tensorflow as hvd
    import numpy as np
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    hvd.init()

    def seconds(floats: int) -> float:
        values = tf.ones([floats])
        start = time.perf_counter()
        total = hvd.allreduce(values, op=hvd.Sum, name=f"floats{floats}").numpy()
        taken = time.perf_counter() - start
        if not np.all(total == hvd.size()):
            raise SystemExit(f"the allreduce gave {total[0]}, not {hvd.size()}")
        # Both ranks have to go on alike.
        return float(hvd.allreduce(tf.constant(taken), op=hvd.Max, name="seconds").numpy())

    seconds(_SMALL_FLOATS)
    latency = statistics.median(seconds(_SMALL_FLOATS) for _ in range(_TIMES))
    floats = 16 * _SMALL_FLOATS
    while (taken := seconds(floats)) < _ENOUGH_SECONDS and floats < _LARGEST_FLOATS:
        floats *= 4
    if hvd.rank() == 0:
        found = {
            "size": hvd.size(),
            "local_size": hvd.local_size(),
            "host": socket.gethostname(),
            "latency_ms": 1e3 * latency,
            "megabytes_per_second": 4e-6 * floats / taken,
        }
        print(MARK + json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
