"""One rank of benchmarks/reading.py: epochs that are read in three ways, in turn."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable

import hvdkit as hvd


def main(rows: int, batch_size: int, milliseconds: float, rounds: int) -> None:
    """Print the seconds of each epoch of each way."""
    hvd.init()
    import numpy as np
    import tensorflow as tf

    def wait(row: np.ndarray) -> np.ndarray:
        time.sleep(milliseconds / 1000)
        return row

    def decode(row: tf.Tensor) -> tf.Tensor:
        decoded = tf.numpy_function(wait, [row], tf.int64)
        decoded.set_shape([])
        return decoded

    at_a_time = tf.config.threading.get_inter_op_parallelism_threads()
    dataset = tf.data.Dataset.range(rows)
    before = hvd.shard(dataset.map(decode, num_parallel_calls=at_a_time), batch_size)
    inside = hvd.shard(dataset, batch_size, map=decode)
    share = dataset.shard(hvd.size(), hvd.rank()).map(decode, num_parallel_calls=at_a_time)
    ways: dict[str, Iterable[object]] = {
        "before": before,
        "inside": inside,
        "own": share.batch(batch_size).prefetch(2),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(1 + rounds):
        for way, batches in ways.items():
            hvd.barrier()
            start = time.perf_counter()
            for _ in batches:
                pass
            if number > 0:
                seconds[way].append(time.perf_counter() - start)
    sys.stdout.write(f"READING {json.dumps(seconds)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
